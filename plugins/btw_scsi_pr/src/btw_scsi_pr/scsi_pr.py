"""Resource type `scsi_pr`: its parameters. What it does is in `doing`, `looking` and `checking`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from btw_core import Context, Problem, Resource, Status
from btw_core.resource import CheckContext, Former


class ScsiPr(Resource, frozen=True, kw_only=True, tag="scsi_pr"):
    """A disk that takes writes of the active node only (SCSI-3 persistent reservation)."""

    layer = "fencing"
    shared = True

    devices: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="the disks, by names that outlive a reboot: by-id, multipath, a pattern of such; all paths of "
            "each are found",
            examples=[["/dev/disk/by-id/wwn-0x6001405a7b0c8d9e"]],
        ),
    ]
    reservation: Annotated[
        Literal[5, 6, 7, 8],
        Meta(
            description="type of the reservation: 5 write exclusive, 6 exclusive access, registrants only; 7 and 8 the "
            "same for all registrants"
        ),
    ] = 5
    force: Annotated[bool, Meta(description="preempt keys that are not of this cluster, too")] = False
    accept_plain_preempt: Annotated[
        bool, Meta(description="start also where the disk cannot abort what a former holder has queued in it")
    ] = False
    release_on_stop: Annotated[
        bool, Meta(description="stop gives the disk back; who stands still since an earlier term can then write")
    ] = False

    def start(self, ctx: Context) -> None:
        """Take the disk for this term."""
        from .doing import start
        from .units import Sysfs

        start(self, ctx, Sysfs())

    def heal(self, ctx: Context) -> None:
        """Register paths that came back, preempt an old key that came back. Raises Failed when the disk is not ours."""
        from .doing import heal
        from .units import Sysfs

        heal(self, ctx, Sysfs())

    def fence(self, ctx: Context, former: Former) -> None:
        """Take the disk for this term: no former holder can write any more."""
        from .doing import fence
        from .units import Sysfs

        fence(self, ctx, former, Sysfs())

    def stop(self, ctx: Context) -> None:
        """Leave the disk as it is, so that whoever was shut out stays so; with `release_on_stop` give it back."""
        from .doing import stop
        from .units import Sysfs

        stop(self, ctx, Sysfs())

    def status(self, ctx: Context) -> Status:
        from .looking import status
        from .units import Sysfs

        return status(self, ctx, Sysfs())

    def check(self, ctx: CheckContext) -> list[Problem]:
        from .checking import check
        from .units import Sysfs

        return check(self, ctx, Sysfs())

    def identity(self) -> tuple[str, ...]:
        """The disks, whatever they are called; what the parameters say where they are not here."""
        from .units import NotFound, Sysfs

        try:
            return ("disk", *sorted(unit.wwid for unit in Sysfs().units(self.devices)))
        except NotFound:
            return ("disk", *self.devices)
