"""Where a tunnel's outer packets arrive, as the operator says it; `reconcile.local` says what that comes to."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias

Ip: TypeAlias = IPv4Address | IPv6Address


class Towards(NamedTuple):
    """Somebody to whom this host may send, by the routes of *vrf* (empty: by those of no VRF)."""

    ip: Ip
    vrf: str = ""

    def __str__(self) -> str:
        return f"{self.ip} in VRF {self.vrf}" if self.vrf else str(self.ip)


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """The outer destination is written in the file."""

    ip: Ip

    def __str__(self) -> str:
        return str(self.ip)


@dataclass(frozen=True, slots=True)
class LocalOf:
    """The outer destination is whatever address this interface has."""

    link: str

    def __str__(self) -> str:
        return f"the address of {self.link}"


@dataclass(frozen=True, slots=True)
class LocalTowards:
    """The outer destination is the source address this host would use towards these (``"auto"``)."""

    targets: tuple[Ip, ...]

    def __str__(self) -> str:
        return "auto"


@dataclass(frozen=True, slots=True)
class LocalEvery:
    """Whatever address, or segment, of this host: what ``"auto"`` means where no load balancer can be told."""


Local: TypeAlias = LocalAddress | LocalOf | LocalTowards | LocalEvery
