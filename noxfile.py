"""Every check of btw. `./dev test` runs the default sessions; `./dev test -l` lists all of them.

Sessions use the interpreter that runs nox and the versions of constraints.txt. Distributions are installed, never
imported from the checkout, so that what is tested is what a user gets. pytest's exit code 5 (no test found) fails.
Default sessions are `calm` (no time but the simulated one counts) or `timed`: .ci/run lets both kinds run at once.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "unit", "sim", "system", "netns", "vm", "wheel", "docs"]

PINS = "constraints.txt"
DISTRIBUTIONS = ["btw_core", *sorted(str(path.parent) for path in Path("plugins").glob("*/pyproject.toml"))]
NAMES = [Path(path).name.replace("_", "-") for path in DISTRIBUTIONS]
TEST_TOOLS = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis"]
#: All that any session, `dev` or a person working on btw needs; `nox -s pins` fixes their versions.
TOOLS = ["nox", "uv", "virtualenv", *TEST_TOOLS, "ruff", "mypy", "hatchling", "rich", "mkdocs-material"]


def install(session: nox.Session, *tools: str, distributions: bool = True) -> None:
    """Tools and, not editable, all distributions on one command line (plugins need the core of the same checkout)."""
    fresh: list[str] = []
    if distributions and session.venv_backend == "uv":
        # uv takes a directory whose pyproject.toml did not change for the one that it built before
        fresh = [f"--reinstall-package={name}" for name in NAMES]
    paths = [f"./{path}" for path in DISTRIBUTIONS] if distributions else []
    session.install("-c", PINS, *fresh, *tools, *paths, env={"UV_BUILD_CONSTRAINT": PINS})


@nox.session(tags=["calm"])
def lint(session: nox.Session) -> None:
    """ruff."""
    install(session, "ruff", distributions=False)
    session.run("ruff", "check", ".")


@nox.session(tags=["calm"])
def types(session: nox.Session) -> None:
    """mypy --strict over the sources and tests of each distribution and over tests/."""
    install(session, "mypy", "nox", "rich", *TEST_TOOLS)
    for path in DISTRIBUTIONS:
        with session.chdir(path):
            session.run("mypy", "--strict", *(part for part in ("src", "tests") if Path(part).is_dir()))
    with session.chdir("tests"):
        session.run("mypy", "--strict", ".")
    session.run("mypy", "--strict", "noxfile.py")


@nox.session(tags=["timed"])
def unit(session: nox.Session) -> None:
    """Tests of the distributions and of what crosses them, except the slow kinds below."""
    install(session, *TEST_TOOLS)
    places = [f"{path}/tests" for path in DISTRIBUTIONS if Path(path, "tests").is_dir()]
    others = [*(f"--ignore=tests/{slow}" for slow in ("sim", "system", "netns", "vm")), "-m", "not wheel"]
    session.run("pytest", "-n", "2", *others, *places, "tests", *session.posargs)


@nox.session(tags=["calm"])
def sim(session: nox.Session) -> None:
    """The simulation: the real manager against faults, in virtual time."""
    install(session, *TEST_TOOLS)
    patient = ["--timeout", "900"]  # it may get little of the processors
    session.run("pytest", "-n", "2", *patient, "tests/sim", *session.posargs)


@nox.session(tags=["timed"])
def system(session: nox.Session) -> None:
    """Real processes on this computer."""
    install(session, *TEST_TOOLS)
    session.run("pytest", "-n", "3", "tests/system", *session.posargs)  # they wait most of the time


@nox.session(tags=["timed"])
def netns(session: nox.Session) -> None:
    """Three real nodes and a real etcd in network namespaces. Needs root, and the packages that it names."""
    install(session, *TEST_TOOLS)
    session.run("pytest", "-n", "2", "--dist", "loadfile", "tests/netns", *session.posargs)


@nox.session(tags=["timed"])
def vm(session: nox.Session) -> None:
    """Booted machines (User Mode Linux); as root. Their consoles and logs are kept below .nox/vm/logs."""
    install(session, *TEST_TOOLS)
    logs = Path(session.virtualenv.location).resolve() / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    # they wait most of the time; machines of a busy computer boot slowly
    split = ["-n", "3", "--dist", "loadfile", "--timeout", "900"]
    split.append("--ignore=tests/vm/test_vm_fs.py")  # every night: six minutes
    session.run("pytest", *split, "tests/vm", *session.posargs, env={"BTW_VM_LOGS": str(logs)})


@nox.session(tags=["timed"])
def wheel(session: nox.Session) -> None:
    """Build the wheels, install them outside the checkout and use them there."""
    install(session, "pytest", "pytest-timeout", "hatchling", "uv", distributions=False)
    wheels = Path(session.virtualenv.location).resolve() / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    for path in DISTRIBUTIONS:
        with session.chdir(path):
            session.run("hatchling", "build", "-t", "wheel", "-d", str(wheels), env={"SOURCE_DATE_EPOCH": "1700000000"})
    files = ["tests/test_packaging.py", "tests/test_upgrade.py"]
    session.run("pytest", "-m", "wheel", *files, *session.posargs, env={"BTW_WHEELS": str(wheels)})


@nox.session(tags=["calm"])
def docs(session: nox.Session) -> None:
    """The documentation site, strict: a page or anchor that a link misses is an error. `-- serve` shows it instead."""
    install(session, "mkdocs-material")
    site = Path(session.virtualenv.location).resolve() / "site"
    words = session.posargs or ["build", "--strict", "--site-dir", str(site)]
    session.run("mkdocs", *words, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False)
def browse(session: nox.Session) -> None:
    """The site that `docs` has built, opened in a headless browser. Needs Debian's chromium."""
    site = Path(session.virtualenv.location).resolve().parent / "docs/site"
    session.run("python", "tools/browse.py", str(site), *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Costs as ratios against a baseline measured in the same run."""
    install(session)
    session.run("python", "tests/bench.py", *session.posargs)
    if not session.posargs:
        session.run("python", "tests/bench_vip.py")


@nox.session(default=False)
def nightly(session: nox.Session) -> None:
    """A thousand kills of a manager and ten of everything else, ten minutes of random faults and twenty outages on a
    real etcd, booted machines struck ten times and others whose file systems hang, the simulation over 100,000 seeds
    (or `-- --seeds 20000`), then data that outlive a hundred moves and a hundred kills."""
    install(session, *TEST_TOOLS)
    strikes = ["--strikes", "10", "--timeout", "0"]
    session.run("pytest", "-n", "2", "tests/system/test_system_keeper.py", *strikes, env={"BTW_KILLS": "1000"})
    session.run("pytest", "-n", "2", "btw_core/tests/test_core_clusters.py", env={"BTW_CLUSTERS": "400"})
    storm = ["--storm", "600", "--outages", "20", "--timeout", "0"]
    session.run("pytest", "tests/netns/test_netns_storm.py", "tests/netns/test_netns_outage.py", *storm)
    session.run("pytest", "tests/vm/test_vm_keeper.py", "tests/vm/test_vm_systemd.py", *strikes)
    session.run("pytest", "tests/vm/test_vm_fs.py", "--timeout", "0")
    session.run("pytest", "tests/vm/test_vm_scsi_rounds.py", "--rounds", "50", "--timeout", "0")
    session.run("pytest", "tests/vm/test_vm_scsi_loop.py", "--strikes", "17", "--timeout", "0")
    session.run("python", "-m", "btw_core.testing.sim", *(session.posargs or ["--seeds", "100000", "--jobs", "2"]))
    session.run("python", "-m", "btw_core.testing.sim", "--daemons", "--seeds", "500", "--jobs", "2")
    session.run("pytest", "tests/vm/test_vm_data.py", "--data", "100", "--timeout", "0")


@nox.session(default=False)
def pins(session: nox.Session) -> None:
    """Write constraints.txt anew with the newest versions that fit each other on every Python from 3.11 on."""
    session.install("uv")
    wanted = Path(session.virtualenv.location).resolve() / "wanted.in"
    wanted.write_text("\n".join([*TOOLS, *(str(Path(path).resolve()) for path in DISTRIBUTIONS)]) + "\n")
    plain = ["--no-emit-index-url", "--no-header", "--no-annotate", *(f"--no-emit-package={name}" for name in NAMES)]
    plain += ["--universal", "--python-version=3.11", "--upgrade"]
    session.run("uv", "pip", "compile", "--quiet", *plain, "-o", PINS, str(wanted))
