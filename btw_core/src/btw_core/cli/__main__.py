"""`python -m btw_core.cli`: how `run -d` and `demo` start another btw with the same Python."""

from . import main

main()
