"""One look at a disk, as a program of its own: `probe.py read DIRECTORY [DEVICE]`, `probe.py write DIRECTORY FILE`.

It may hang for ever, and nothing else hangs with it. Standard library only. Ends with 0, or with the error's number
(errno(3)) after having printed what it was doing.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys

SIZE = 4096
#: A full file system is a healthy one.
FULL = (errno.ENOSPC, errno.EDQUOT)


def read(directory: str, device: str = "") -> None:
    """The file system answers, and its disk as well, past every cache: any one block."""
    os.statvfs(directory)
    with os.scandir(directory) as entries:
        next(entries, None)
    if device:
        file = os.open(device, os.O_RDONLY | os.O_DIRECT)
        blocks = max(1, os.lseek(file, 0, os.SEEK_END) // SIZE)
        os.preadv(file, [mmap.mmap(-1, SIZE)], int.from_bytes(os.urandom(8), "big") % blocks * SIZE)


def write(path: str) -> None:
    """One block past the page cache and down to the disk, where the file system knows O_DIRECT."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_DSYNC | os.O_NOFOLLOW | os.O_CLOEXEC
    block = mmap.mmap(-1, SIZE)
    block.write(b"written by btw to see that it can be written\n")
    try:
        file = os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        file = os.open(path, flags, 0o600)
    os.pwrite(file, block, 0)
    os.fsync(file)


def main() -> int:
    what, directory, other = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
    try:
        if what == "read":
            read(directory, other)
        else:
            read(directory)
            write(f"{directory}/{other}")
    except OSError as error:
        if error.errno in FULL:
            return 0
        print(f"{what} of {error.filename or other or directory}: {error.strerror}")
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    sys.exit(main())
