"""Resource type `vip`: its parameters. What it does is in `doing`, `looking` and `checking`; they import pyroute2,
and are therefore imported by the methods that need them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from btw_core import Context, Problem, Resource, Seconds, Status
from btw_core.resource import CheckContext

from .address import Address, Destination, Host, Subnet


class Vip(Resource, frozen=True, kw_only=True, tag="vip"):
    """A virtual IP address, which clients find on whichever node runs the package."""

    layer = "network"
    shared = True

    address: Annotated[
        Address, Meta(description="IPv4 or IPv6 address with the prefix of its network", examples=["192.0.2.10/24"])
    ]
    interface: Annotated[
        str, Meta(description="where it belongs; empty: the interface with a route to `network`", examples=["eth0"])
    ] = ""
    network: Annotated[
        Subnet | None,
        Meta(
            description="instead of `interface`: a network of this node; empty: the one that holds the address",
            examples=["192.0.2.0/24"],
        ),
    ] = None
    label: Annotated[
        str, Meta(description="label of an IPv4 address, as ifconfig shows it", max_length=15, examples=["eth0:web"])
    ] = ""
    scope: Annotated[Literal["global", "link", "host"], Meta(description="scope of an IPv4 address")] = "global"
    noprefixroute: Annotated[bool, Meta(description="do not add another route to its network (the node has one)")] = (
        True
    )
    source: Annotated[bool, Meta(description="IPv6: this node's own connections may come from the address")] = False
    routes: Annotated[
        tuple[Destination, ...],
        Meta(
            description='"NETWORK" or "NETWORK via GATEWAY", reached from this address while it is here',
            examples=[["203.0.113.0/24 via 192.0.2.1"]],
        ),
    ] = ()
    probe: Annotated[
        Seconds, Meta(description="how long start asks whether somebody uses the address; 7 is RFC 5227, 0 is never")
    ] = Seconds(0.01)
    dad: Annotated[
        Literal["probe", "kernel"],
        Meta(description="IPv6: only `probe`, or the kernel's duplicate detection as well, which takes 1 to 2 s"),
    ] = "probe"
    on_conflict: Annotated[
        Literal["refuse", "take"],
        Meta(description="what start does when a former holder still answers; a stranger is always refused"),
    ] = "refuse"
    refresh: Annotated[
        Seconds, Meta(description="how often the address is announced while it is here; 0: only by start")
    ] = Seconds(60)
    on_carrier_loss: Annotated[
        Literal["move", "degraded"],
        Meta(description="another node takes it at once, or after `timeout`"),
    ] = "move"
    heals: Annotated[
        int, Meta(ge=0, description="how often within a minute it is put back after somebody deleted it")
    ] = 5
    gateway: Annotated[
        Host | None,
        Meta(
            description="degraded when this neighbour does not answer; empty: nobody is asked", examples=["192.0.2.1"]
        ),
    ] = None

    def start(self, ctx: Context) -> None:
        """Refuses without carrier, or when somebody else has the address."""
        from .doing import start

        start(self, ctx)

    def prepare(self, ctx: Context) -> None:
        """Everything of a start but its effects."""
        from .doing import rehearse

        rehearse(self, ctx)

    def heal(self, ctx: Context) -> None:
        """Put back what somebody deleted. Raises Failed when that happens too often, or without carrier."""
        from .doing import heal

        heal(self, ctx)

    def stop(self, ctx: Context) -> None:
        """Take away exactly this address."""
        from .doing import stop

        stop(self, ctx)

    def status(self, ctx: Context) -> Status:
        from .looking import status

        return status(self, ctx)

    def watch(self, ctx: Context) -> list[int]:
        """Readable when the address or its interface changes, or somebody else claims the address."""
        from .looking import watch

        return watch(self, ctx)

    def identity(self) -> tuple[str, ...]:
        """What no other package on this node may use."""
        return ("address", str(self.address.ip))

    def check(self, ctx: CheckContext) -> list[Problem]:
        from .checking import problems

        return problems(self)
