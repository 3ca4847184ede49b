"""
The encapsulations a balancer can send, one small file each.

Each says which kind of link carries it, what that link must look like, and whether a link that is there would take
the same packets. A new encapsulation is a new file here, a line in `CARRIERS`, and
what ARCHITECTURE says besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dsr_agent.state.model import Ip, Link, Outer, Tunnel
from dsr_agent.tunnels.fou import Fou
from dsr_agent.tunnels.gre import Gre
from dsr_agent.tunnels.gue import Gue
from dsr_agent.tunnels.ipip import Ipip


class Carrier(Protocol):
    """How one encapsulation is carried by this kernel."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kernel's kinds of link that carry it, the one first that is made if nothing speaks against it."""
        ...

    def protocol(self, version: int) -> int:
        """The outer header's IP protocol when a packet of *version* is inside."""
        ...

    def outer(self, tunnel: Tunnel, local: Ip, kind: str, vrf: str = "") -> Outer:
        """The outer header that a link of *kind* for *tunnel* looks for when it arrives at *local*, in *vrf*."""
        ...

    def same(self, found: Outer, wanted: Outer) -> bool:
        """Whether a link with *found* takes exactly the packets that one with *wanted* would."""
        ...

    def can_become(self, found: Outer, wanted: Outer) -> bool:
        """Whether the kernel turns *found* into *wanted* in place, without losing a packet (facts A8)."""
        ...

    def clashes(self, found: Outer, wanted: Outer) -> bool:
        """Whether the kernel refuses a link with *wanted* while one of the same kind with *found* is there."""
        ...

    def wrap(self, tunnel: Tunnel, version: int, inner: bytes) -> bytes:
        """*inner*, an IP packet of *version*, as it stands behind the outer IP header."""
        ...

    def overhead(self, tunnel: Tunnel) -> int:
        """What the outer header adds to each packet, in bytes."""
        ...


CARRIERS: Mapping[tuple[str, int], Carrier] = {
    ("ipip", 4): Ipip(("sit", "ipip"), 20),
    ("ipip", 6): Ipip(("ip6tnl",), 40),
    ("gre", 4): Gre(("gre",), 20),
    ("gre", 6): Gre(("ip6gre",), 40),
    ("gue", 4): Gue(("sit", "ipip"), 20),
    ("gue", 6): Gue(("ip6tnl",), 40),
    ("fou", 4): Fou(("sit", "ipip"), 20),
    ("fou", 6): Fou(("ip6tnl",), 40),
}
"""By encapsulation and version of the outer header."""

PROTOCOLS_OF_KIND: Mapping[str, tuple[int, ...]] = {
    "ipip": (4,),
    "sit": (4, 41),
    "ip6tnl": (4, 41),
    "gre": (47,),
    "ip6gre": (47,),
}
"""The IP protocols that a link of each kind takes."""


def takes(link: Link, version: int) -> bool:
    """Whether *link* takes packets with an IP packet of *version* inside."""
    return link.kind != "ipip" or version == 4


def carrier(tunnel: Tunnel) -> Carrier:
    """The carrier of *tunnel*'s encapsulation; the file was checked, so there is one."""
    return CARRIERS[tunnel.encapsulation, tunnel.version]


def protocols_of(tunnel: Tunnel) -> frozenset[int]:
    """The IP protocols of *tunnel*'s outer headers."""
    return frozenset(carrier(tunnel).protocol(version) for version in (4, 6))
