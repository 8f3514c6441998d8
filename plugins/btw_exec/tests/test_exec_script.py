"""Package scripts: resource type `script`, reading them, `btw probe`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from btw_core import CannotTell, Failed, Status
from btw_core.resource import CheckContext
from btw_core.testing import FakeContext
from btw_core.types import Reason, Verb
from btw_exec import btw_commands, btw_package_file, package_file
from btw_exec.script import Script, called_as

CHECK = CheckContext(cluster="c", node="n", package="p", everything=())
Write = Callable[..., Path]

#: As a page of back-to-work shows them: settings, relative modules, $0.
SHELL = """#!/bin/sh
pace=2
timeout=10
start_timeout=5
flag=state/up
case $1 in
 echo)
   eval echo \\$$2
 ;;
 start)
   echo "======== $0 start on $BTW_NODE ========"
   . modules/flag
 ;;
 stop)
   echo "======== $0 stop because of $BTW_REASON ========"
   . modules/flag
 ;;
 status)
   . modules/flag
 ;;
esac
"""
MODULE = """case $1 in
 start) : > "$flag" ;;
 stop) rm -f "$flag" ;;
 status) test -e "$flag" ;;
esac
"""
PYTHON = f"""#!{sys.executable} -S
import pathlib, sys
pace = 2
timeout = 10
start_timeout = 5
flag = pathlib.Path("state/up")
if sys.argv[1] == "echo":
    print(globals().get(sys.argv[2], ""))
elif sys.argv[1] == "start":
    print(f"======== {{sys.argv[0]}} start on node1 ========")
    flag.touch()
elif sys.argv[1] == "stop":
    flag.unlink(missing_ok=True)
else:
    sys.exit(0 if flag.exists() else 1)
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes DIR/packages/NAME beside DIR/modules and DIR/state."""
    for name in ("packages", "modules", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "modules" / "flag").write_text(MODULE)

    def make(text: str, mode: int = 0o755, name: str = "web") -> Path:
        path = tmp_path / "packages" / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return make


@pytest.mark.parametrize("text", [SHELL, PYTHON])
def test_life(write: Write, text: str) -> None:
    """A script of back-to-work works unchanged, in any language: called as packages/NAME from the directory above."""
    path = write(text)
    assert btw_package_file(path) == {
        "package": {"pace": 2.0, "timeout": 10.0, "start_timeout": 5.0},
        "resource": [{"type": "script", "path": str(path)}],
    }
    script = Script(path=str(path))
    assert script.check(CHECK) == []
    assert script.status(FakeContext(verb=None)) is Status.DOWN
    ctx = FakeContext()
    script.start(ctx)
    assert ctx.lines == ["======== packages/web start on node1 ========"]
    assert script.status(FakeContext(verb=None)) is Status.UP
    script.stop(FakeContext(Verb.STOP, reason=Reason.USER))
    assert script.status(FakeContext(verb=None)) is Status.DOWN


def test_exit_codes(write: Write) -> None:
    """status as for `exec`; start and stop that do not end with 0 have failed."""
    path = write('#!/bin/sh\nread code < state/code\nexit "$code"\n')
    script, code = Script(path=str(path)), path.parent.parent / "state" / "code"
    for number, status in ((0, Status.UP), (1, Status.DOWN), (2, Status.DEGRADED), (3, Status.CRITICAL)):
        code.write_text(f"{number}\n")
        assert script.status(FakeContext(verb=None)) is status
    code.write_text("7\n")
    with pytest.raises(CannotTell, match="exit code 7 is none of 0, 1, 2, 3"):
        script.status(FakeContext(verb=None))
    for method in (script.start, script.stop):
        with pytest.raises(Failed, match=r"packages/web .*exit code 7"):
            method(FakeContext())


def test_script_vanished(write: Write) -> None:
    """A script that is not there any more is no answer to status, and a failed stop."""
    script = Script(path=str(write(SHELL)))
    Path(script.path).unlink()
    with pytest.raises(CannotTell, match="No such file"):
        script.status(FakeContext(verb=None))
    with pytest.raises(Failed, match="No such file"):
        script.stop(FakeContext(Verb.STOP))


def test_check(write: Write) -> None:
    """Missing, without its run bit, relative: each said with its remedy."""
    path = write(SHELL, mode=0o644)
    (problem,) = Script(path=str(path)).check(CHECK)
    assert (problem.key, problem.remedy) == ("path", f"chmod +x {path}")
    (problem,) = Script(path=f"{path}x").check(CHECK)
    assert "does not exist" in problem.text
    (problem,) = Script(path="packages/web").check(CHECK)
    assert "relative" in problem.text


def test_called_as() -> None:
    """Always with a slash, so that PATH is not searched."""
    assert called_as("/srv/packages/web") == ("packages/web", "/srv")
    assert called_as("/packages/web") == ("packages/web", "/")
    assert called_as("/web") == ("./web", "/")


def test_links_are_kept(write: Write, tmp_path: Path) -> None:
    """A linked script is called where the link is: $0 is the package's name."""
    write('#!/bin/sh\n[ "$1" = echo ] || echo "$0 in $PWD"\n', name="template")
    (tmp_path / "packages" / "shop").symlink_to("template")
    ctx = FakeContext()
    Script(path=str(tmp_path / "packages" / "shop")).start(ctx)
    assert ctx.lines == [f"packages/shop in {tmp_path}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\nexit 1\n", r"is no package script: `echo pace` printed nothing, exit code 1"),
        ("#!/bin/sh\necho usage: web FILE\n", r"`echo pace` printed 'usage: web FILE', exit code 0; allowed: a plain"),
        ("#!/bin/sh\necho 4s\n", r"`echo pace` printed '4s'"),
        ("#!/bin/sh\necho nan\n", r"`echo pace` printed 'nan'"),
        ("#!/bin/sh\necho 4; exit 2\n", r"`echo pace` printed '4', exit code 2"),
        ("#!/bin/sh\nkill -9 $$\n", r"`echo pace` printed nothing, killed by SIGKILL"),
        ("#!/bin/sh\nexec head -c 1000000 /dev/urandom\n", r"is no package script: `echo pace` printed ['\"]"),
        ("no first line\n", r"a script needs a first line such as #!/bin/sh"),
        ("#!/bin/sh\n[ $2 = pace ] && echo 4 || echo abc\n", r"web: `echo timeout` printed 'abc'"),
    ],
)
def test_refused(write: Write, text: str, message: str) -> None:
    """What does not answer as a package script is refused with what it said, and never asked for more."""
    with pytest.raises(ValueError, match=message):
        btw_package_file(write(text))


def test_only_echo_pace_is_asked_first(write: Write) -> None:
    """A program that does something whatever it is asked is called once, with `echo pace`."""
    path = write('#!/bin/sh\necho "$*" >> state/calls\necho done\n')
    with pytest.raises(ValueError, match="printed 'done'"):
        btw_package_file(path)
    assert (path.parent.parent / "state" / "calls").read_text() == "echo pace\n"


def test_hangs(write: Write) -> None:
    """A program that does not answer is ended at the limit and refused."""
    with pytest.raises(ValueError, match=r"is no package script: .* did not end within 0\.3 s"):
        package_file.read(write("#!/bin/sh\nexec sleep 1000\n"), limit=0.3)


def test_standard_error_is_no_answer(write: Write) -> None:
    """Warnings do not count, as in $(packages/NAME echo pace)."""
    package = btw_package_file(write("#!/bin/sh\necho warning >&2\n[ $2 = pace ] && echo 4\nexit 0\n"))
    assert package is not None and package["package"] == {"pace": 4.0}


def test_silent_program(write: Write) -> None:
    """A program that answers nothing is accepted, as by back-to-work (unset: the default)."""
    path = write("")
    shutil.copy("/bin/true", path)
    package = btw_package_file(path)
    assert package is not None and package["package"] == {}
    path.unlink()
    shutil.copy("/bin/false", path)
    with pytest.raises(ValueError, match="printed nothing, exit code 1"):
        btw_package_file(path)


def test_not_this_plugins(write: Write, tmp_path: Path) -> None:
    """A file that is neither executable nor a script, a directory, hidden files and editors' copies are left alone."""
    assert btw_package_file(write("notes\n", mode=0o644)) is None
    assert btw_package_file(tmp_path / "modules") is None
    assert btw_package_file(tmp_path / "none") is None
    assert btw_package_file(write(SHELL, name=".web.swp")) is None
    assert btw_package_file(write(SHELL, name="web~")) is None


def test_without_run_bit(write: Write) -> None:
    """A script whose run bit is missing is named with the remedy."""
    path = write(SHELL, mode=0o644)
    with pytest.raises(ValueError, match=rf"chmod \+x {path}"):
        btw_package_file(path)


def probe(*arguments: object) -> Result:
    return CliRunner().invoke(btw_commands()["probe"], [os.fspath(str(each)) for each in arguments])


def test_probe(write: Write) -> None:
    """`btw probe` shows what the script answers, and what it leaves to the defaults."""
    path = write(SHELL)
    result = probe(path)
    assert result.exit_code == 0
    assert f"called as packages/web in {path.parent.parent}" in result.output
    assert "timeout        10 s" in result.output
    assert "stop_timeout   not set, the default holds" in result.output
    assert "nothing at all" not in result.output
    assert "nothing at all" in probe(write("#!/bin/sh\n")).output


def test_probe_of_something_else(write: Write) -> None:
    """Exit code 78 and the reason when it is no package script."""
    for path, reason in (
        (write("#!/bin/sh\necho hello\n"), "printed 'hello'"),
        (write("notes\n", mode=0o644, name="notes"), "neither executable nor begins with #!"),
        (Path("/nonexistent/web"), "does not exist"),
    ):
        result = probe(path)
        assert result.exit_code == 78
        assert f"{path} is no package script" in result.output
        assert reason in result.output
