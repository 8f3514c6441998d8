"""Real processes of btw on this computer."""
