"""Resource type `fs`: its parameters. What it does is in `doing`, `stopping`, `looking` and `checking`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from btw_core import Context, Problem, Resource, Status
from btw_core.resource import CheckContext

from .target import Device, Directory, Options


class Fs(Resource, frozen=True, kw_only=True, tag="fs"):
    """A file system, mounted on whichever node runs the package."""

    layer = "storage"
    shared = True

    device: Annotated[
        Device,
        Meta(
            description="block device (path, UUID=, LABEL=), HOST:/PATH or //HOST/SHARE, directory to bind, or tmpfs",
            examples=["UUID=0a3407de-014b-458b-b5c1-848e92a327a3", "192.0.2.1:/export"],
        ),
    ]
    directory: Annotated[
        Directory, Meta(description="where it is mounted; no symbolic link in it", examples=["/srv/www"])
    ]
    fstype: Annotated[
        str, Meta(description="type as mount -t takes it; empty: what the device holds", examples=["ext4", "nfs4"])
    ] = ""
    options: Annotated[
        Options, Meta(description="as mount -o takes them, comma between", examples=["noatime,nodev"])
    ] = field(default_factory=Options)
    fsck: Annotated[
        Literal["auto", "never", "always"],
        Meta(description="check before mounting: as the type needs it, not at all, or all of it each time"),
    ] = "auto"
    create_directory: Annotated[bool, Meta(description="start makes the directory when it is missing")] = False
    allow_nonempty: Annotated[bool, Meta(description="mount over a directory that has something in it")] = False
    kill_users: Annotated[
        Literal["never", "term", "kill"],
        Meta(description="what stop does to processes that still use it: wait, send TERM, or TERM and then KILL"),
    ] = "kill"
    look: Annotated[
        Literal["mounted", "read", "write"],
        Meta(description="what status looks at: the mount alone, a block read from the device, or one written"),
    ] = field(default="mounted", name="check")  # `check` is what every resource has: its `btw check`

    def start(self, ctx: Context) -> None:
        """Refuses a device that is in use, and a directory that is not empty."""
        from .doing import start

        start(self, ctx)

    def stop(self, ctx: Context) -> None:
        """Unmount it, wherever it is mounted on this node. Never lazily."""
        from .stopping import stop

        stop(self, ctx)

    def status(self, ctx: Context) -> Status:
        from .looking import status

        return status(self, ctx)

    def watch(self, ctx: Context) -> list[int]:
        """Readable when something is mounted or unmounted there, or its device changes."""
        from .looking import watch

        return watch(self, ctx)

    def identity(self) -> tuple[str, ...]:
        """What no other package on this node may use."""
        return ("directory", str(self.directory))

    def check(self, ctx: CheckContext) -> list[Problem]:
        from .checking import problems

        return problems(self, ctx)
