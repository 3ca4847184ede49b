"""The words of the self-test: what is to be sent, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from dsr_agent.state.model import Ip, Link
from dsr_agent.state.ports import PortKey

# Who the packets inside say they are from, the first that is nobody's here: addresses of the documentation ranges
# (RFC 5737, RFC 3849), which no client has and which the default route leads to, as to clients.
CLIENTS: tuple[Ip, ...] = (
    *map(IPv4Address, ("192.0.2.1", "198.51.100.1", "203.0.113.1")),
    *map(IPv6Address, ("2001:db8::1", "2001:db8::2", "2001:db8::3")),
)

PAYLOAD = 28
"""How many bytes each carries."""

# Who wraps them for a tunnel that is open to anybody. An answer to this address finds nobody.
ANYBODY: Mapping[int, Ip] = {4: IPv4Address("198.51.100.2"), 6: IPv6Address("2001:db8:0:ffff::2")}


@dataclass(frozen=True, slots=True)
class Shot:
    """
    One datagram through the tunnel *link* to *vip*.

    *local* is the tunnel's own address and *client* who the packet inside says it is from. *unfit* says of the link as
    it is now why nothing may be sent, or nothing; *wrap* makes the packet for a port and a payload. *port* is where it
    is taken out of UDP, if it comes in UDP. *arrives_in* is the VRF in which it is sent and arrives wrapped, *vrf* that
    of the VIP.
    """

    vip: Ip
    link: str
    local: Ip
    client: Ip
    unfit: Callable[[Link | None], str]
    wrap: Callable[[int, bytes], bytes]
    port: PortKey | None = None
    bare: bool = False
    """Nothing is wrapped, so that it arrives by no link of its own."""
    arrives_in: str = ""
    vrf: str = ""


class Seen(StrEnum):
    """What became of a datagram."""

    ARRIVED = "arrived"  # by the tunnel's own link
    ELSEWHERE = "elsewhere"  # by another link
    LOST = "lost"  # sent, and not arrived in time
    NO_VIP = "no_vip"  # not sent: nobody can be reached at the VIP on this host
    NO_TUNNEL = "no_tunnel"  # not sent: the tunnel's link is not there, not ours, down, or other than declared
    REFUSED = "refused"  # the kernel did not take the packet
    UNKNOWN = "unknown"  # not sent, and nothing can be said


@dataclass(frozen=True, slots=True)
class Increase:
    """
    What counted more while a datagram was under way; other packets count there, too.

    *host* are counters of ``/proc/net``, *tunnel* and *refused* what the link has received and refused.
    *reverse_path* is the link's reverse-path filter as the kernel goes by it.
    """

    host: Mapping[str, int] = field(default_factory=dict)
    tunnel: int = 0
    refused: int = 0
    reverse_path: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """One result: *what*, by which link it *came*, *why* it was not sent, and the *evidence* where it got lost."""

    what: Seen
    came: str = ""
    why: str = ""
    seconds: float = 0.0
    evidence: Increase | None = None

    @property
    def silent(self) -> bool:
        """Whether it says nothing about the VIP: a packet that this host's own rules keep back is nobody's request."""
        return self.what in (Seen.UNKNOWN, Seen.REFUSED)

    @property
    def good(self) -> bool | None:
        """Whether it arrived as it should; None if it says nothing about the VIP."""
        return None if self.silent else self.what is Seen.ARRIVED

    @property
    def sent(self) -> bool:
        """Whether a packet was sent at all."""
        return self.what in (Seen.ARRIVED, Seen.ELSEWHERE, Seen.LOST)
