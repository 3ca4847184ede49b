"""
The encapsulations a balancer can send, one small file each.

Each says which kind of link carries it, what that link must look like, and whether a link that is there would take
the same packets. A new encapsulation is a new file here and one line in `CARRIERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dsr_agent.state.model import Ip, Outer, Tunnel
from dsr_agent.tunnels.gre import Gre
from dsr_agent.tunnels.ipip import Ipip


class Carrier(Protocol):
    """How one encapsulation is carried by this kernel."""

    kind: str
    """The kernel's kind of link."""
    protocol: int
    """The outer header's IP protocol."""
    carries: frozenset[int]
    """The versions of IP that it carries."""

    def outer(self, tunnel: Tunnel, local: Ip) -> Outer:
        """The outer header that a link for *tunnel* looks for when it arrives at *local*."""
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


CARRIERS: Mapping[str, Carrier] = {"ipip": Ipip(), "gre": Gre()}


def carrier(tunnel: Tunnel) -> Carrier:
    """The carrier of *tunnel*'s encapsulation; the file was checked, so there is one."""
    return CARRIERS[tunnel.encapsulation]
