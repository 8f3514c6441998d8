"""The parameter `address`: an IP address with the length of its network's prefix."""

from __future__ import annotations

import ipaddress

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address:
    """An IPv4 or IPv6 address with its prefix, from "192.0.2.10/24". Raises ValueError, with what is allowed."""

    def __init__(self, text: str) -> None:
        ip, slash, prefix = text.partition("/")
        if not slash:
            raise ValueError(f'write the prefix of its network as well, such as "{text}/24"')
        if not prefix.isdecimal():
            raise ValueError("the prefix is a number, such as /24")
        interface = ipaddress.ip_interface(text)
        self.ip: IP = interface.ip
        if self.ip.is_multicast or self.ip.is_unspecified or self.ip.is_loopback:
            raise ValueError("allowed: an address of one host")
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
