"""In a machine: start and status of a `scsi_pr` on a disk with two paths, against sg_persist sending the same commands.

By hand, as root, in tests/: `python -m vm.guest.pr_bench boot` boots a machine and runs it there.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from btw_core import Status
from btw_core.testing import FakeContext
from btw_scsi_pr.doing import start
from btw_scsi_pr.looking import status
from btw_scsi_pr.scsi_pr import ScsiPr
from btw_scsi_pr.units import Sysfs
from vm.guest.loops import set_up
from vm.lab import Lab
from vm.machine import TESTS

TIMES = 15


def median(once: Callable[[int], object]) -> float:
    """Milliseconds."""
    once(0)
    took = []
    for number in range(1, TIMES + 1):
        begin = time.perf_counter()
        once(number)
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1000


def sg(*words: str) -> None:
    subprocess.run(["sg_persist", "--no-inquiry", *words], check=True, capture_output=True, timeout=30)


def start_by_sg(names: list[str], key: int) -> None:
    """The commands of a start on a disk that nobody else has, one program each."""
    one, two = (f"/dev/{name}" for name in names)
    flush = ["blockdev", "--flushbufs", one, two]
    subprocess.run(flush, check=True, timeout=30)
    sg("--in", "--read-keys", one)
    sg("--in", "--report-capabilities", one)
    for path in (one, two):
        sg("--out", "--register-ignore", f"--param-sark={key:x}", "--param-aptpl", path)
    sg("--in", "--read-keys", one)
    sg("--in", "--read-reservation", one)
    sg("--out", "--reserve", "--prout-type=5", f"--param-rk={key:x}", one)
    sg("--in", "--read-keys", one)
    for path in (one, two):
        sg("--in", "--read-keys", path)
        sg("--in", "--read-reservation", path)
    subprocess.run(flush, check=True, timeout=30)


def main() -> None:
    names, others = set_up()
    pr = ScsiPr(devices=(f"/dev/{names[0]}",))
    state: dict[str, object] = {}

    def begin(number: int) -> None:
        ctx = FakeContext(term=number + 1)
        start(pr, ctx, Sysfs())
        state.update(ctx.state)

    def look(_number: int) -> None:
        assert status(pr, FakeContext(None, state=state, term=TIMES + 1), Sysfs()) is Status.UP

    def look_by_sg(_number: int) -> None:
        sg("--in", "--read-keys", f"/dev/{names[0]}")
        sg("--in", "--read-reservation", f"/dev/{names[0]}")

    begun, looked, looked_by_sg = median(begin), median(look), median(look_by_sg)
    begun_by_sg = median(lambda number: start_by_sg(others, number + 1))
    print(f"start, two paths: btw {begun:.1f} ms, sg_persist {begun_by_sg:.1f} ms: {begun / begun_by_sg:.2f}")
    print(f"status: btw {looked:.1f} ms, sg_persist {looked_by_sg:.1f} ms: {looked / looked_by_sg:.2f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["boot"]:
        with Lab(machines=1) as lab:
            command = [sys.executable, "-m", "vm.guest.pr_bench"]
            print(lab["n1"].run(*command, env={"PYTHONPATH": str(TESTS)}, timeout=300).out)
    else:
        main()
