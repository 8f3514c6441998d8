"""What can be said of a plugin as a whole, installed or (by `btw plugin check DIRECTORY`) as if it were.

    pytest --pyargs btw_core.testing.project --btw-project btw-exec
"""

from __future__ import annotations

from importlib.metadata import requires

import pytest

from ..plugins import COMMANDS, EXTENSIONS, GROUPS, LOCKS, RESOURCES, Found, Plugins, normal
from ..resource import ConfigError
from .rules import Rules

#: The hook that gives what the names of a group promise.
HOOKS = {RESOURCES: "btw_resource_types", LOCKS: "btw_stores", COMMANDS: "btw_commands"}


class TestProject(Rules):
    btw_kit = "plugin"
    _where = "btw_core.hooks, and docs/writing in the sources of btw"

    @pytest.fixture
    def project(self, request: pytest.FixtureRequest) -> str:
        name = request.config.getoption("--btw-project")
        if not name:
            pytest.skip("--btw-project says what to look at")
        return str(name)

    @pytest.fixture
    def plugins(self) -> Plugins:
        try:
            return Plugins()
        except ConfigError as error:
            self.must(False, str(error), "names_are_its_own: no other distribution gives one of its names")
            raise

    @pytest.fixture
    def points(self, project: str, plugins: Plugins) -> list[Found]:
        everything = (each for names in plugins.found.values() for each in names.values())
        return [each for each in everything if each.distribution == normal(project)]

    def test_it_has_a_name(self, project: str, points: list[Found]) -> None:
        """It gives at least one name in the entry-point groups of btw."""
        self.must(bool(points), f"{project} has no entry point in {', '.join(GROUPS)}")

    def test_each_name_loads(self, plugins: Plugins, points: list[Found]) -> None:
        """Behind each name is a module that imports, whose hooks have the right names and arguments, and that gives
        what the name promises."""
        for each in points:
            try:
                hooks = plugins.hooks(each)
                if each.group == RESOURCES:
                    plugins.resource_type(each.name)
                elif each.group == COMMANDS:
                    plugins.command(each.name)
            except ConfigError as error:
                self.must(False, str(error))
            wanted = HOOKS.get(each.group)
            self.must(wanted is None or wanted in hooks, f"`{each.name}` in {each.group}, but no hook {wanted}")
            used = each.group != EXTENSIONS or bool(set(hooks) - set(HOOKS.values()))
            self.must(used, f"the extension `{each.name}` implements no hook of an extension")

    def test_it_says_which_btw_core_it_needs(self, project: str) -> None:
        """It requires btw-core with a lower and an upper bound: the version of btw-core is the version of the API."""
        said = [text for text in requires(project) or () if text.lower().replace("_", "-").startswith("btw-core")]
        bounded = any(">=" in text and "<" in text for text in said if "extra ==" not in text)
        self.must(bounded, f"{project} requires {', '.join(said) or 'no btw-core'}; say btw-core>=X,<Y")
