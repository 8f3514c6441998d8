"""A hardware or software watchdog (Linux: Documentation/watchdog/watchdog-api.rst): it resets the computer when nobody
has fed it for its timeout. Standard library only: the keeper imports it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# include/uapi/linux/watchdog.h, with the numbers of include/uapi/asm-generic/ioctl.h (x86, arm, riscv, s390)
_GETSUPPORT, _KEEPALIVE, _SETTIMEOUT, _GETTIMEOUT = 0x80285700, 0x80045705, 0xC0045706, 0x80045707
_CAN_SETTIMEOUT, _CAN_MAGICCLOSE = 0x0080, 0x0100
_INFO = struct.Struct("II32s")  # struct watchdog_info: options, firmware_version, identity
_INT = struct.Struct("i")
_MISC = os.makedev(10, 130)  # /dev/watchdog, which is the first device under its old number

Ioctl = Callable[[int, int, bytes], bytes]


class Refused(Exception):
    """This device cannot be relied on, or not be had; the message says why and what helps."""


class System(NamedTuple):
    """What is asked of the kernel; tests put their own in its place."""

    ioctl: Ioctl = fcntl.ioctl
    classes: Path = Path("/sys/class/watchdog")


LINUX = System()


class Watchdog:
    """An armed device: open(2) arms it. `window` is W, its timeout in seconds as read back."""

    def __init__(self, descriptor: int, window: float, system: System) -> None:
        self.descriptor, self.window, self._system = descriptor, window, system

    @classmethod
    def open(cls, path: Path, timeout: float, system: System = LINUX) -> Watchdog:
        """Arm it with at most `timeout` seconds. Feeds it thereby. Raises Refused; BlockingIOError while somebody else
        has it, who may be a keeper that is just ending."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise BlockingIOError(error.errno, "in use by another program", str(path)) from error
            raise Refused(f"watchdog {path}: {error.strerror}; {_remedy(error)}") from error
        can = 0
        try:
            can = _INFO.unpack(system.ioctl(descriptor, _GETSUPPORT, bytes(_INFO.size)))[0]
            window = _set(path, descriptor, can, timeout, system)
        except OSError as error:
            _close(descriptor, disarm=bool(can & _CAN_MAGICCLOSE))
            raise Refused(f"watchdog {path}: {error.strerror} (ioctl): it is no watchdog that can be used") from error
        except Refused:
            _close(descriptor, disarm=bool(can & _CAN_MAGICCLOSE))
            raise
        return cls(descriptor, window, system)

    @classmethod
    def inherited(cls, descriptor: int, system: System = LINUX) -> Watchdog:
        """One that this process had before exec(3). Raises OSError."""
        os.set_inheritable(descriptor, False)
        (seconds,) = _INT.unpack(system.ioctl(descriptor, _GETTIMEOUT, bytes(_INT.size)))
        return cls(descriptor, float(seconds), system)

    def feed(self) -> None:
        """It fires `window` seconds after the last time. Raises OSError."""
        self._system.ioctl(self.descriptor, _KEEPALIVE, bytes(_INT.size))

    def close(self, *, disarm: bool) -> None:
        """`disarm`: with the magic character; else (and with nowayout in any case) it goes on, and fires."""
        _close(self.descriptor, disarm=disarm)


def _set(path: Path, descriptor: int, can: int, timeout: float, system: System) -> float:
    if not can & _CAN_SETTIMEOUT:
        raise Refused(f"watchdog {path}: its timeout cannot be set (no WDIOF_SETTIMEOUT); use another device")
    if not can & _CAN_MAGICCLOSE and not _nowayout(descriptor, system):
        raise Refused(
            f"watchdog {path}: whatever closes it disarms it, also the end of a killed keeper (no WDIOF_MAGICCLOSE, "
            "nowayout = 0); load its module with nowayout=1"
        )
    system.ioctl(descriptor, _SETTIMEOUT, _INT.pack(max(1, int(timeout))))
    (window,) = _INT.unpack(system.ioctl(descriptor, _GETTIMEOUT, bytes(_INT.size)))
    if not 0 < window <= timeout:
        raise Refused(
            f"watchdog {path}: its timeout, as read back, must not be above watchdog_timeout, but {window} s > "
            f"{timeout:g} s: set watchdog_timeout = {window} in btw.toml of every node, or use another device"
        )
    return float(window)


def _nowayout(descriptor: int, system: System) -> bool:
    """What sysfs says of this very device (Documentation/ABI/testing/sysfs-class-watchdog)."""
    number = os.fstat(descriptor).st_rdev
    text = f"{os.major(number)}:{os.minor(number)}"
    for device in sorted(system.classes.glob("watchdog*")):
        try:
            same = (device / "dev").read_text().strip() == text or (number == _MISC and device.name == "watchdog0")
            if same:
                return (device / "nowayout").read_text().strip() == "1"
        except OSError:  # not said: a kernel without CONFIG_WATCHDOG_SYSFS
            continue
    return False


def _close(descriptor: int, *, disarm: bool) -> None:
    try:
        if disarm:
            os.write(descriptor, b"V")
    finally:
        os.close(descriptor)


def _remedy(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "load its driver (modprobe softdog, where there is no hardware)"
    return "`watchdog` in btw.toml must name a device that this user may open"
