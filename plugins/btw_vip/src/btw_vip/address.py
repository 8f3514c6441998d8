"""Values of parameters: each is made from one text, and raises ValueError with what is allowed."""

from __future__ import annotations

import ipaddress
from ipaddress import ip_address, ip_network

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address:
    """An IPv4 or IPv6 address with the prefix of its network, "192.0.2.10/24"."""

    def __init__(self, text: str) -> None:
        ip, slash, prefix = text.partition("/")
        if not slash:
            raise ValueError(f'write the prefix of its network as well, such as "{text}/24"')
        if not prefix.isdecimal():
            raise ValueError("the prefix is a number, such as /24")
        interface = ipaddress.ip_interface(text)
        self.ip: IP = interface.ip
        if self.ip.is_multicast or self.ip.is_unspecified or self.ip.is_loopback:
            raise ValueError("this is no address of one host")
        if "%" in ip:
            raise ValueError("write the interface as `interface`, not behind %")
        self.prefix = int(prefix)
        self.network: Network = interface.network

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and (self.ip, self.prefix) == (other.ip, other.prefix)

    def __hash__(self) -> int:
        return hash((self.ip, self.prefix))


class Host:
    """An address alone, "192.0.2.1"."""

    def __init__(self, text: str) -> None:
        self.ip: IP = ip_address(text)

    def __str__(self) -> str:
        return str(self.ip)


class Subnet:
    """A network, "192.0.2.0/24", or only its address, "192.0.2.0"."""

    def __init__(self, text: str) -> None:
        self._wanted: Network | IP = ip_network(text) if "/" in text else ip_address(text)

    def __str__(self) -> str:
        return str(self._wanted)

    def is_(self, network: Network) -> bool:
        return self._wanted in (network, network.network_address)


class Destination:
    """Where a route leads to, "203.0.113.0/24", and through whom, "203.0.113.0/24 via 192.0.2.1"."""

    def __init__(self, text: str) -> None:
        words = text.split()
        if len(words) != 1 and (len(words) != 3 or words[1] != "via"):
            raise ValueError('write "NETWORK" or "NETWORK via GATEWAY"')
        self.network: Network = ip_network(words[0])
        self.gateway: IP | None = ip_address(words[2]) if len(words) == 3 else None

    def __str__(self) -> str:
        return f"{self.network} via {self.gateway}" if self.gateway else str(self.network)
