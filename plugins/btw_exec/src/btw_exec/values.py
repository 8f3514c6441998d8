"""Values that somebody sets in a file: reading one, setting one, and whether it means up."""

from __future__ import annotations

import contextlib
import operator
import os
import re
import stat
import threading
from pathlib import Path

_OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_BOUND, _SPAN = re.compile(r"(==|!=|>=|<=|>|<) ?([0-9]+)"), re.compile(r"([0-9]+) ?- ?([0-9]+)")
#: Bytes of a value at most.
_LONGEST = 64


class Unknown(Exception):
    """No value can be read there: why."""


def flaw(criteria: str) -> str:
    """Why nothing can be measured by `criteria`, "" when it can."""
    span, bound = _SPAN.fullmatch(criteria), _BOUND.fullmatch(criteria)
    if criteria and not span and not bound:
        return "allowed: ==, !=, >, <, >=, <= with a whole number, or a range"
    return "no number is in this range" if span and int(span[1]) > int(span[2]) else ""


def means_up(value: str, criteria: str) -> bool:
    """`criteria` empty: the words up and down. Raises Unknown: there are no such criteria, or no such value."""
    if why := flaw(criteria):
        raise Unknown(f'criteria "{criteria}": {why}')
    if not criteria:
        if value not in ("up", "down"):
            raise Unknown(f'found "{value}", allowed: up, down')
        return value == "up"
    if not re.fullmatch("[0-9]+", value):
        raise Unknown(f'found "{value}", allowed: a whole number')
    number = int(value)
    if span := _SPAN.fullmatch(criteria):
        return int(span[1]) <= number <= int(span[2])
    bound = _BOUND.fullmatch(criteria)
    assert bound is not None
    return bool(_OPERATORS[bound[1]](number, int(bound[2])))


def read(path: str) -> str:
    """The first line. Raises Unknown. Does not block on a pipe that somebody has put there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unknown("nobody has set it") from None
    except OSError as error:
        raise Unknown(str(error.strerror)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unknown("is no regular file")
        return os.read(descriptor, _LONGEST).decode(errors="replace").partition("\n")[0].strip()
    except OSError as error:
        raise Unknown(str(error.strerror)) from None
    finally:
        os.close(descriptor)


def write(path: str, value: str) -> None:
    """Whoever reads meanwhile finds the old value or the new one. The file keeps mode and, if root sets it, owner: they
    say who may set it. Raises OSError."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        fresh.write_text(f"{value}\n")
        with contextlib.suppress(FileNotFoundError):
            before = file.stat()
            fresh.chmod(stat.S_IMODE(before.st_mode))
            if os.geteuid() == 0:
                os.chown(fresh, before.st_uid, before.st_gid)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
