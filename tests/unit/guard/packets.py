"""Packets as values: what a netfilter rule can see of one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip

IPIP, TCP, UDP, SIX_IN_FOUR, GRE, ICMP, ICMPV6, SCTP = 4, 6, 17, 41, 47, 1, 58, 132


@dataclass(frozen=True, slots=True)
class Packet:
    """
    One packet as it meets a chain.

    *protocol* is what follows the IP header (and IPv6's extension headers). *fragment* is where in its packet this
    piece begins, in units of eight bytes; None: it is not a piece. *transport* is what the rules may look into, which
    in a later piece they may not. *sdifname* is the link of a VRF that it came by, where *iifname* is the VRF's own.
    """

    source: Ip
    destination: Ip
    protocol: int = TCP
    transport: bytes = b""
    fragment: int | None = None
    iifname: str = "eth0"
    iifgroup: int = 0
    oifgroup: int = 0
    mark: int = 0
    dscp: int = 0
    iifkind: str = ""
    sdifname: str = ""

    @property
    def version(self) -> int:
        """Of IP."""
        return self.destination.version

    @property
    def later(self) -> bool:
        """Whether it is a piece of a packet, and not the first."""
        return bool(self.fragment)


def ports(destination: int, source: int = 40000) -> bytes:
    """The beginning of TCP and UDP: with flags and a data offset for TCP, where UDP has data."""
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 5 << 4, 0x02, 1024, 0, 0)


def gre(key: int | None = None, *, checksum: bool = False, flags: int = 0, ethertype: int = 0x0800) -> bytes:
    """A GRE header (RFC 2784, 2890); *flags* are further bits of its first 16, which bring no field with them."""
    first = flags | 0x8000 * checksum | 0x2000 * (key is not None)
    header = struct.pack("!HH", first, ethertype)
    header += b"\xab\xcd\0\0" if checksum else b""
    header += struct.pack("!I", key) if key is not None else b""
    return header + (b"\0\0\0\x07" if flags & 0x1000 else b"")


def datagram(port: int, inside: bytes = b"") -> bytes:
    """A UDP header and the beginning of what it carries."""
    return struct.pack("!HHHH", 40000, port, 8 + len(inside), 0) + inside


def gue(protocol: int = 4, *, first: int = 0, flags: int = 0) -> bytes:
    """A GUE header (draft-ietf-intarea-gue-09, 3.2); *first* is its first byte: variant, control bit, length."""
    return struct.pack("!BBH", first, protocol, flags)


def outer(source: str, destination: str, protocol: int = IPIP, transport: bytes = b"\x45") -> Packet:
    """A balancer's packet as it arrives."""
    return Packet(ip_address(source), ip_address(destination), protocol, transport)


def inner(
    source: str,
    destination: str,
    protocol: int = TCP,
    port: int = 80,
    fragment: int | None = None,
    *,
    link: str = "dsr-ipip",
) -> Packet:
    """A client's packet as it comes out of a tunnel of ours, the *link*."""
    ends = ip_address(source), ip_address(destination)
    return Packet(*ends, protocol, ports(port), fragment, link, LINK_GROUP)
