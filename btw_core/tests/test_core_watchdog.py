"""The watchdog against a device of our own: what is asked of it, and which ones are refused."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from btw_core.watchdog import Refused, System, Watchdog

SETTIMEOUT, MAGICCLOSE = 0x0080, 0x0100
GETSUPPORT, KEEPALIVE, SET, GET = 0x80285700, 0x80045705, 0xC0045706, 0x80045707


class Device:
    """A file that takes what is written, and answers what is asked."""

    def __init__(self, directory: Path, options: int = SETTIMEOUT | MAGICCLOSE, least: int = 1) -> None:
        self.path = directory / "watchdog"
        self.path.touch()
        self.classes = directory / "class"
        self.options, self.least, self.timeout = options, least, 60
        self.asked: list[int] = []

    def ioctl(self, _descriptor: int, number: int, data: bytes) -> bytes:
        self.asked.append(number)
        match number:
            case 0x80285700:
                return struct.pack("II32s", self.options, 1, b"fake")
            case 0xC0045706:
                self.timeout = max(self.least, struct.unpack("i", data)[0])
                return struct.pack("i", self.timeout)
            case 0x80045707:
                return struct.pack("i", self.timeout)
        return data

    def open(self, timeout: float = 10.0) -> Watchdog:
        return Watchdog.open(self.path, timeout, System(self.ioctl, self.classes))


def test_set_read_back_fed_and_disarmed(tmp_path: Path) -> None:
    """W is what was read back; closing writes the magic character only when asked to."""
    device = Device(tmp_path)
    watchdog = device.open(10.9)
    assert watchdog.window == 10.0 and device.asked == [GETSUPPORT, SET, GET]
    watchdog.feed()
    assert device.asked[-1] == KEEPALIVE and device.path.read_bytes() == b""
    again = Watchdog.inherited(os.dup(watchdog.descriptor), System(device.ioctl, device.classes))
    assert again.window == 10.0
    again.close(disarm=False)
    assert device.path.read_bytes() == b""
    watchdog.close(disarm=True)
    assert device.path.read_bytes() == b"V"


def test_a_timeout_that_is_too_long_is_refused_with_the_inequality(tmp_path: Path) -> None:
    """L is computed from watchdog_timeout: a device that takes longer would fire too late. It is disarmed again."""
    device = Device(tmp_path, least=30)
    with pytest.raises(Refused, match=r"30 s > 10 s: set watchdog_timeout = 30"):
        device.open()
    assert device.path.read_bytes() == b"V"


def test_a_timeout_that_cannot_be_set_is_refused(tmp_path: Path) -> None:
    """Nobody would know W."""
    device = Device(tmp_path, options=MAGICCLOSE)
    with pytest.raises(Refused, match="WDIOF_SETTIMEOUT"):
        device.open()
    assert SET not in device.asked


def test_a_device_that_any_end_disarms_is_refused(tmp_path: Path) -> None:
    """A killed keeper closes it: without magic close and without nowayout nothing would fire then. With nowayout it is
    fine."""
    device = Device(tmp_path, options=SETTIMEOUT)
    with pytest.raises(Refused, match="nowayout=1"):
        device.open()
    number = device.path.stat().st_rdev
    entry = device.classes / "watchdog0"
    entry.mkdir(parents=True)
    (entry / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
    (entry / "nowayout").write_text("0\n")
    with pytest.raises(Refused):
        device.open()
    (entry / "nowayout").write_text("1\n")
    device.open().close(disarm=False)


def test_no_device_or_no_watchdog(tmp_path: Path) -> None:
    """The message names the device and the remedy."""
    with pytest.raises(Refused, match=r"none: No such file or directory; load its driver \(modprobe softdog"):
        Watchdog.open(tmp_path / "none", 10.0)
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="it is no watchdog"):
        Watchdog.open(tmp_path / "file", 10.0)


def test_an_ioctl_that_fails_leaves_it_disarmed(tmp_path: Path) -> None:
    """Whatever cannot be used must not fire."""
    device = Device(tmp_path)

    def ioctl(descriptor: int, number: int, data: bytes) -> bytes:
        if number == SET:
            raise OSError(errno.EINVAL, "Invalid argument")
        return device.ioctl(descriptor, number, data)

    with pytest.raises(Refused, match="Invalid argument"):
        Watchdog.open(device.path, 10.0, System(ioctl, device.classes))
    assert device.path.read_bytes() == b"V"
