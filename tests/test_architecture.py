"""The rules of docs/design.md that can be read off the sources: what may import what, sizes, what `--help` loads.

The packages are looked at where they are installed, so that the rules hold for what a user gets.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400

#: Kinds of modules of btw_core as in docs/design.md "Modules of btw-core"; all others are adapters to the system.
KINDS = {
    "pure": "types timing fsm lease events faults safety cluster switches dependencies targets placement patience"
    " rehearsal records picture hearing steps",
    "contract": "clock store ports resource hooks",
    "shell": "desk health session claim work debts memory controller summary shared_record placer manager",
    "keeper": "exits trial keeper_options pulse keeper_rules watchdog cutoff steady errands service life keeper",
    "node": "node answers",
    "cli": "cli",
    "testing": "testing",
}
MAY_IMPORT = {
    "pure": {"pure"},
    "contract": {"pure", "contract"},
    "shell": {"pure", "contract", "shell"},
    "keeper": {"keeper"},  # and PLAIN
    "adapter": {"pure", "contract", "keeper", "adapter"},
    "node": {"pure", "contract", "shell", "keeper", "adapter", "node"},
    "cli": {"pure", "contract", "shell", "keeper", "adapter", "node"},
    "testing": {"pure", "contract", "shell", "keeper", "adapter", "node", "testing"},
}
#: What a keeper may import besides: the standard library is all that these need.
PLAIN = {"clock", "journal"}
#: Later ones may import earlier ones, never the other way; one line is one step of the design's chain.
CHAIN = [
    "timing",
    "types",
    "events",
    "lease fsm",
    "desk health",
    "session claim work",
    "debts memory",
    "controller shared_record",
    "summary placer",
    "manager",
    "node",
    "cli",
]
IMPURE = {"time", "os", "socket", "subprocess", "threading", "random", "asyncio", "pathlib"}
WITHOUT_IO = [*KINDS["pure"].split(), *KINDS["shell"].split()]
KIND_OF = {module: kind for kind, modules in KINDS.items() for module in modules.split()}
STEP_OF = {module: step for step, modules in enumerate(CHAIN) for module in modules.split()}


def installed(package: str) -> Path:
    """Directory of an installed package; nothing of it is imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed"
    return Path(spec.origin).parent


def distributions() -> list[str]:
    return ["btw_core", *sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))]


@functools.cache
def sources(package: str = "btw_core") -> dict[Path, ast.Module]:
    """Every source file, by its path below the package."""
    top = installed(package)
    return {path.relative_to(top): ast.parse(path.read_text()) for path in sorted(top.rglob("*.py"))}


def module_of(path: Path) -> str:
    """`fsm` for fsm.py, `cli` for everything below cli/."""
    return path.parts[0].removesuffix(".py")


def kind_of(module: str) -> str:
    return KIND_OF.get(module, "adapter")


def outside(tree: ast.Module) -> Iterator[str]:
    """Top-level names of every absolute import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def inside(path: Path, tree: ast.Module) -> Iterator[str]:
    """Modules of btw_core that this file imports, relatively or by full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("btw_core."):
                    yield alias.name.split(".")[1]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = path.parts[: len(path.parts) - node.level]
                full = [*package, *(node.module or "").split(".")]
            elif node.module and node.module.partition(".")[0] == "btw_core":
                full = node.module.split(".")[1:]
            else:
                continue
            name = next((part for part in full if part), None)
            yield from [name] if name else (alias.name for alias in node.names)


def edges() -> Iterator[tuple[str, str, Path]]:
    """(importing module, imported module, file), without __init__.py and what a sub-package imports of itself."""
    files = sources()
    modules = {module_of(path) for path in files} - {"__init__"}
    for path, tree in files.items():
        module = module_of(path)
        if module in modules:
            yield from ((module, name, path) for name in inside(path, tree) if name in modules - {module})


def test_every_module_is_in_the_design() -> None:
    """Whoever reads docs/design.md has heard of every module of btw_core."""
    design = (ROOT / "docs/design.md").read_text()
    table = design.partition("## Modules of btw-core")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)/?`", table))
    found = {module_of(path) for path in sources()} - {"__init__", "__main__"}
    assert found, "no modules found: is btw_core installed?"
    assert found <= named, f"not in the table of docs/design.md: {sorted(found - named)}"


@pytest.mark.parametrize("module", WITHOUT_IO)
def test_rules_and_shell_do_no_io(module: str) -> None:
    """Rules and shell can be run in virtual time because they touch neither clock nor system but through ports."""
    tree = sources().get(Path(f"{module}.py"))
    if tree is None:
        pytest.skip(f"{module}.py does not exist yet")
    assert not set(outside(tree)) & IMPURE


def test_imports_run_one_way() -> None:
    """Each kind of module imports only the kinds allowed to it, and no module imports a later step of the chain."""
    wrong = []
    for module, name, path in edges():
        plain = kind_of(module) == "keeper" and name in PLAIN
        if not plain and kind_of(name) not in MAY_IMPORT[kind_of(module)]:
            wrong.append(f"{path} ({kind_of(module)}) imports {name} ({kind_of(name)})")
        elif STEP_OF.get(module, len(CHAIN)) < STEP_OF.get(name, -1):
            wrong.append(f"{path}: imports {name}, which comes later in the chain")
    assert not wrong


def test_a_keeper_needs_nothing_but_the_standard_library() -> None:
    """What looks after everything else loads no plugin, no struct library, no event loop, and starts no thread."""
    code = "import sys, btw_core.keeper, threading; print(threading.active_count(), *sys.modules)"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    threads, *loaded = done.stdout.split()
    tops = {name.partition(".")[0] for name in loaded if "." not in name or name.startswith("btw_core")}
    foreign = tops - set(sys.stdlib_module_names) - {"btw_core", "__main__", "sitecustomize", "usercustomize"}
    foreign = {name for name in foreign if not name.startswith(("_", "sphinxcontrib"))}
    assert threads == "1" and not foreign, foreign
    assert "asyncio" not in loaded
    mine = {name.removeprefix("btw_core.") for name in loaded if name.startswith("btw_core.")}
    assert mine == set(KINDS["keeper"].split()) | PLAIN


def test_imports_have_no_cycle() -> None:
    """The modules can be read in an order in which each uses only what came before."""
    graph: dict[str, set[str]] = {}
    for module, name, _ in edges():
        graph.setdefault(module, set()).add(name)
    assert graph, "no import found at all: the reader of imports is broken"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", distributions())
def test_no_source_file_is_long(package: str) -> None:
    """A module fits into one reading."""
    top = installed(package)
    lengths = {str(path): len((top / path).read_text().splitlines()) for path in sources(package)}
    assert lengths
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES}


@pytest.mark.parametrize("what", ["import btw_core.cli", "from btw_core.cli import main; main()"])
def test_the_command_line_starts_light(what: str) -> None:
    """`btw --help` answers before anything heavy is loaded."""
    code = (
        "import atexit, sys\n"
        "sys.argv = ['btw', '--help']\n"
        "atexit.register(lambda: print('\\nLOADED', *sys.modules))\n"  # main() leaves by SystemExit
        f"{what}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("\nLOADED ")[2].split())
    assert "btw_core.cli" in loaded
    assert not loaded & {"stevedore", "msgspec", "sqlite3", "asyncio"}


def test_nothing_names_a_registry_or_a_developers_machine() -> None:
    """The repository works anywhere: no committed file names a package registry's host or somebody's directories."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    words = [r"(pypi|pythonhosted)\.org", r"index-url[= ]+http", r"/(home|Users|work)/\w+"]
    words += [r"/root/\w", r"/tmp/tmp\.\w", r"\.pyenv/"]
    pattern = re.compile("|".join(words))
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]  # the checkout may be another user's
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name and ROOT / name != Path(__file__).resolve()]
    assert files
    found = []
    for path in files:
        if not path.is_file():
            continue  # deleted in the working tree
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found
