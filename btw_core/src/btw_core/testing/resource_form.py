"""The rules of a resource type that can be tried without starting anything: what it is, and what its parameters are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import pytest

from ..config import decode_package
from ..parameters import PLACEHOLDER, Parameter, convert, fields, parameters
from ..plugins import Plugins
from ..resource import CheckContext, ConfigError, Problem, Resource, Seconds, Sibling
from ..settings import NodeConfig
from ..templates import package_file, summary
from ..toml import Document
from .bench import NODE, PACKAGE
from .rules import Rules

Table = dict[str, Any]
#: Values of which every parameter has to refuse at least one, and none may be more than refused.
WRONG = (True, -1, 1.5, "", "\x00", "???", PLACEHOLDER, [[[1]]], {"btw": {"x": [1]}})
_LENGTH_OF_TIME = re.compile(r"(^|_)(timeout|wait|delay|interval|period|seconds|secs|age|duration)$")
_TIME_UNITS = {"s", "ms", "min", "h", "sec", "seconds", "milliseconds", "minutes"}
_CONFIG = NodeConfig(node=NODE, lock="local:lock.db")  # types with `shared` want it written down
_UNKNOWN = "btw_no_such_parameter"
_SLOW = 60.0


class ResourceForm(Rules):
    """See `resource_contract`."""

    #: Modules that must not be imported by loading the type: `btw check` and every command would wait for them.
    light: ClassVar[Sequence[str]] = ()
    #: Tables that must be refused, each as (what is said instead, the key at fault): ({"path": "relative"}, "path").
    bad: ClassVar[Sequence[tuple[Mapping[str, Any], str]]] = ()

    btw_kit = "resource"
    _where = "btw_core.resource and its Resource"

    @pytest.fixture
    def table(self) -> Table:
        """What a package file says below [[resource]], `type` included: of something that can be started here, and is
        not up. A fresh one for each test; the fixture clears away what is left of it."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture table")

    @pytest.fixture
    def loaded(self, table: Table) -> type[Resource]:
        """The type, found as btw finds it."""
        try:
            self.plugins = Plugins()
            return self.plugins.resource_type(table["type"])
        except ConfigError as error:
            rule = "it_is_found: the type is found through its entry point, loads and keeps the form of a resource"
            self.must(False, str(error), rule)
            raise

    def read(self, table: Mapping[str, Any]) -> Resource:
        """As from a package file. Raises ConfigError."""
        document = Document(file="kit.toml", data={"package": {}, "resource": [dict(table)]})
        return decode_package(PACKAGE, document, _CONFIG, self.plugins).resources[0]

    def problems(self, table: Mapping[str, Any]) -> list[Problem]:
        """Everything that reading and `check` say."""
        try:
            resource = self.read(table)
        except ConfigError as error:
            return list(error.problems)
        return list(resource.check(_context(resource)))

    # ---- what it is
    def test_it_is_found(self, loaded: type[Resource], table: Table) -> None:
        """The type is found through its entry point, loads, keeps the form of a resource, and has the three methods."""
        lacking = [name for name in ("status", "start", "stop") if getattr(loaded, name) is getattr(Resource, name)]
        self.must(not lacking, f"{loaded.__name__} does not define {', '.join(lacking)}")
        self.must(bool(summary(loaded)), f"{loaded.__name__} has no docstring: its first line is its summary")

    def test_loading_it_is_cheap(self, loaded: type[Resource], table: Table) -> None:
        """Loading the type starts no thread and prints nothing, and imports none of the modules in `light`."""
        code = (
            "import sys, threading\nfrom btw_core.plugins import load\nload([sys.argv[1]])\n"
            "print('THREADS', threading.active_count(), *sys.modules)"
        )
        command = [sys.executable, "-P", "-c", code, table["type"]]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SLOW, check=False)
        said, _, rest = done.stdout.partition("THREADS ")
        threads, *modules = rest.split() or ["0"]
        self.must(done.returncode == 0, f"it cannot be loaded in a new process: {done.stderr[-500:]}")
        self.must(threads == "1", f"after loading it {threads} threads run: what is forked then may hang")
        self.must(not said, f"loading it prints {said[:200]!r}")
        heavy = sorted(set(self.light) & set(modules))
        self.must(not heavy, f"loading it imports {', '.join(heavy)}: import them in the methods that need them")

    def test_its_parameters_are_documented(self, loaded: type[Resource], table: Table) -> None:
        """Every parameter says what it means, its example is a value that it takes, and a length of time is of the type
        Seconds."""
        types = {field.encode_name: field.type for field in fields(loaded)}
        for each in self._own(loaded):
            self.must(bool(each.meaning), f"`{each.name}` has no Meta(description=...)")
            time = bool(_LENGTH_OF_TIME.search(each.name)) or each.unit in _TIME_UNITS
            number = bool({int, float} & set(_plain(types[each.name])))
            self.must(not (time and number), f"`{each.name}` is a length of time, but of the type {each.type}")
            for example in _examples(types[each.name]):
                try:
                    convert(example, types[each.name])
                except ValueError as error:
                    self.must(False, f"the example {example!r} of `{each.name}` is refused: {error}")

    def test_it_is_the_same_when_read_again(self, loaded: type[Resource], table: Table) -> None:
        """Two readings of one table are equal and identify the same thing; what is read cannot be changed."""
        one, two = self.read(table), self.read(table)
        self.must(one == two, f"{one!r} is not equal to {two!r}")
        self.must(one.identity() == two.identity(), f"identity() says {one.identity()}, then {two.identity()}")
        sound = isinstance(one.identity(), tuple) and all(isinstance(each, str) for each in one.identity())
        self.must(sound, f"identity() is {one.identity()!r}, and not a tuple of text")
        changed = False
        try:
            one.name = "another"  # type: ignore[misc]
            changed = True
        except AttributeError:
            pass
        self.must(not changed, "its fields can be assigned to: declare the class frozen")

    def test_bad_parameters_are_refused_with_their_key(self, loaded: type[Resource], table: Table) -> None:
        """A value of a wrong kind, a parameter that is missing, unknown or still the placeholder of `btw new` is
        refused, and the problem names its key. So are the author's own examples in `bad`."""
        self._refused({**table, _UNKNOWN: 1}, _UNKNOWN, f"the unknown parameter {_UNKNOWN}")
        for each in self._own(loaded):
            wrong = [value for value in WRONG if self._is_refused({**table, each.name: value}, each.name)]
            self.must(bool(wrong), f"`{each.name}` takes whatever it is given: {', '.join(map(repr, WRONG))}")
            if each.required:
                without = {key: value for key, value in table.items() if key != each.name}
                self._refused(without, each.name, f"a table without `{each.name}`")
        for said, key in self.bad:
            self._refused({**table, **said}, key, f"{dict(said)!r}")

    def test_a_new_package_file_can_be_written(self, loaded: type[Resource], table: Table) -> None:
        """`btw new` writes a package file of it that is valid TOML, and the values of this test's table fit in."""
        text = package_file(PACKAGE, [(table["type"], loaded)])
        keys = {each.name for each in parameters(loaded)} | {"type"}
        self.must(set(table) <= keys, f"the table has {sorted(set(table) - keys)}, which are no parameters")
        for each in parameters(loaded):
            self.must(bool(re.search(rf"(?m)^#?{re.escape(each.name)} = ", text)), f"no line for `{each.name}`")

    def test_check_is_content(self, loaded: type[Resource], table: Table) -> None:
        """`check` finds no error in what can be started, names only parameters that there are, and changes nothing."""
        resource = self.read(table)
        found = list(resource.check(_context(resource)))
        errors = [str(each) for each in found if each.severity == "error"]
        self.must(not errors, f"check says: {'; '.join(errors)}")
        keys = {each.name for each in parameters(loaded)} | {""}
        for each in found:
            self.must(each.key in keys, f"check names the key `{each.key}`, which is no parameter: {each}")
        again = list(resource.check(_context(resource)))
        self.must(again == found, f"check says {found}, and {again} when asked again")

    # ---- parts
    def _own(self, loaded: type[Resource]) -> list[Parameter]:
        common = {each.name for each in parameters(Resource)}
        return [each for each in parameters(loaded) if each.name not in common]

    def _is_refused(self, table: Mapping[str, Any], key: str) -> bool:
        """With its key, if at all."""
        try:
            self.read(table)
        except ConfigError as error:
            named = [each for each in error.problems if each.key == key or key in each.text]
            self.must(bool(named), f"{table[key]!r} for `{key}` is refused without its name: {error}")
            return True
        except Exception as error:  # noqa: BLE001 - foreign code: told to its author
            text = f"{table[key]!r} for `{key}` is not refused but raises {type(error).__name__}: {error}"
            self.must(False, f"{text}; raise ValueError")
        return False

    def _refused(self, table: Mapping[str, Any], key: str, what: str) -> None:
        found = [each for each in self.problems(table) if each.severity == "error"]
        self.must(bool(found), f"{what} is not refused")
        named = [each for each in found if each.key == key]
        self.must(bool(named), f"{what} is refused, but for the key `{found[0].key}`: {found[0]}" if found else "")


def _context(resource: Resource) -> CheckContext:
    own = Sibling(package=PACKAGE, resource=resource)
    return CheckContext(cluster="btw", node=NODE, package=PACKAGE, everything=(own,))


def _plain(annotation: Any) -> list[Any]:
    """The types in an annotation: int, and None, in `Annotated[int, ...] | None`; not what lists hold."""
    if hasattr(annotation, "__metadata__"):
        return _plain(annotation.__origin__)
    if getattr(annotation, "__origin__", None) in (list, tuple, dict, set, frozenset) or annotation is Seconds:
        return []
    return [found for each in get_args(annotation) for found in _plain(each)] or [annotation]


def _examples(annotation: Any) -> list[Any]:
    if hasattr(annotation, "__metadata__"):
        own = [example for meta in annotation.__metadata__ for example in getattr(meta, "examples", None) or ()]
        return own + _examples(annotation.__origin__)
    return [found for each in get_args(annotation) for found in _examples(each)]
