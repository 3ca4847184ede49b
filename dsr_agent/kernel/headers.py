"""
What the first bytes of a packet say: its outer header, what stands between that and the packet inside, and that one.

Sources: RFC 791, RFC 8200, RFC 768, RFC 2473 (the encapsulation limit, an option in a header of its own), RFC 2784,
RFC 2890, draft-ietf-intarea-gue-09. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from dsr_agent.state.model import Ip

IPIP, TCP, UDP, SIXINFOUR, GRE = 4, 6, 17, 41, 47
WRAPPED = (IPIP, SIXINFOUR, GRE)
# What may stand between an IPv6 header and what it carries. All but fragments' begin with what follows and how long.
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
OPTIONS = (HOP_BY_HOP, ROUTING, DESTINATION)
_MANY = 8  # of these; nobody has that many

_GUE_CONTROL = 0x20
_CHECKSUM, _KEY, _SEQUENCE = 0x8000, 0x2000, 0x1000
_TRANSPORTS = {TCP: "tcp", UDP: "udp"}


def _service(protocol: int, port: int | None) -> str:
    name = _TRANSPORTS.get(protocol)
    return f"{name}/{port}" if name and port is not None else ""


@dataclass(frozen=True, slots=True)
class Inner:
    """The packet inside, as far as it could be read; no *port* (the destination's) in later fragments."""

    source: Ip
    destination: Ip
    length: int
    protocol: int = 0
    port: int | None = None
    dont_fragment: bool = False

    @property
    def service(self) -> str:
        """As the file writes it; empty for what has no ports."""
        return _service(self.protocol, self.port)


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """
    One packet that reached *link* for this host, by its outer header.

    *protocol* is what follows the header and its extensions, *port* the destination's. *flags* are GRE's first two
    bytes, and *key* its key; *variant* is that of GUE, where a packet is wrapped in UDP. *fragment* is true of any
    piece of a larger packet; only the first has more than the header, and an *inner* to be read. *code* is the code
    point (DSCP).
    """

    link: str
    source: Ip
    destination: Ip
    protocol: int
    length: int
    fragment: bool = False
    later: bool = False
    flags: int = 0
    key: int | None = None
    inner: Inner | None = None
    port: int | None = None
    variant: int | None = None
    code: int = 0

    @property
    def version(self) -> int:
        """Of the outer header."""
        return self.destination.version

    @property
    def wrapped(self) -> bool:
        """Whether the header says that it holds another packet; UDP says nothing."""
        return self.protocol in WRAPPED

    @property
    def encapsulation(self) -> str:
        """As the file writes it; empty if it is none."""
        if self.protocol == UDP:
            return {0: "gue", 1: "fou"}.get(-1 if self.variant is None else self.variant, "")
        return {IPIP: "ipip", SIXINFOUR: "ipip", GRE: "gre"}.get(self.protocol, "")

    @property
    def checksum(self) -> bool:
        """Whether GRE brings a checksum."""
        return bool(self.flags & _CHECKSUM)

    @property
    def service(self) -> str:
        """Of a packet that is not wrapped, as the file writes it; empty for what has no ports."""
        return _service(self.protocol, self.port)

    @property
    def overhead(self) -> int | None:
        """How many bytes stand around the packet inside; None where that cannot be told."""
        return None if self.inner is None or self.fragment else self.length - self.inner.length


@dataclass(frozen=True, slots=True)
class Leaving:
    """A UDP datagram that left this host."""

    source: Ip
    destination: Ip
    port: int
    link: str


# --- what arrives -----------------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """The outer header: what follows it (at *start*), and whether it is a piece of a larger packet."""

    source: Ip
    destination: Ip
    length: int
    protocol: int
    start: int
    later: bool
    more: bool
    code: int


def arriving(link: str, data: bytes) -> CapturedPacket | None:
    """Read the beginning of a packet; None if it is none of IP."""
    head = _ipv4(data) if data and data[0] >> 4 == 4 else _ipv6(data)
    if head is None:
        return None
    flags, key, inner, port, variant = 0, None, None, None, None
    if not head.later:
        if head.protocol in (TCP, UDP):
            port = _port(data, head.start + 2)
        if head.protocol == UDP:
            variant, inner = _in_udp(data[head.start :])
        elif head.protocol in WRAPPED:
            flags, key, offset = _gre(data, head.start) if head.protocol == GRE else (0, None, head.start)
            inner = _inner(data[offset:]) if offset else None
    return CapturedPacket(
        link,
        head.source,
        head.destination,
        head.protocol,
        head.length,
        fragment=head.later or head.more,
        later=head.later,
        flags=flags,
        key=key,
        inner=inner,
        port=port,
        variant=variant,
        code=head.code,
    )


def _ipv4(data: bytes) -> _Header | None:
    if len(data) < 20 or (start := (data[0] & 15) * 4) < 20:
        return None
    length, _, cut = struct.unpack_from(">HHH", data, 2)
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    return _Header(source, destination, length, data[9], start, bool(cut & 0x1FFF), bool(cut & 0x2000), data[1] >> 2)


def _ipv6(data: bytes) -> _Header | None:
    """See through what stands between the header and what it carries (Linux puts an encapsulation limit there)."""
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    first, length, protocol = struct.unpack_from(">HxxHB", data)
    start, later, more = 40, False, False
    for _ in range(_MANY):
        if protocol not in (*OPTIONS, FRAGMENT) or later or len(data) < start + 8:
            break
        if protocol == FRAGMENT:
            (cut,) = struct.unpack_from(">H", data, start + 2)
            later, more = cut >> 3 > 0, bool(cut & 1)
            size = 8
        else:
            size = 8 + data[start + 1] * 8
        protocol = data[start]
        start += size
    source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    return _Header(source, destination, 40 + length, protocol, start, later, more, first >> 6 & 0x3F)


def _in_udp(data: bytes) -> tuple[int | None, Inner | None]:
    """
    GUE's variant, and the packet in a UDP datagram: behind a header of GUE (0), or at once (1, which is FOU).

    Anything else may begin alike, so the lengths have to agree.
    """
    if len(data) < 10:
        return None, None
    (length,) = struct.unpack_from(">H", data, 4)
    first, protocol = data[8:10]
    variant, start = (0, 12 + (first & 31) * 4) if first >> 6 == 0 else (1, 8)
    if variant == 0 and (first & _GUE_CONTROL or protocol not in (IPIP, SIXINFOUR)):
        return None, None
    inner = _inner(data[start:])
    if inner is None or start + inner.length != length:
        return None, None
    return variant, inner


def _gre(data: bytes, start: int) -> tuple[int, int | None, int]:
    """Flags, key, and where the packet inside begins; 0 if that cannot be told."""
    if len(data) < start + 4:
        return 0, None, 0
    (flags,) = struct.unpack_from(">H", data, start)
    offset = start + 4 + 4 * bool(flags & _CHECKSUM)
    key = None
    if flags & _KEY:
        if len(data) < offset + 4:
            return flags, None, 0
        (key,) = struct.unpack_from(">I", data, offset)
        offset += 4
    offset += 4 * bool(flags & _SEQUENCE)
    return flags, key, offset if flags & 7 == 0 else 0


def _inner(data: bytes) -> Inner | None:
    if len(data) >= 20 and data[0] >> 4 == 4 and (start := (data[0] & 15) * 4) >= 20:
        length, _, cut = struct.unpack_from(">HHH", data, 2)
        port = None if cut & 0x1FFF else _port(data, start + 2)
        source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
        return Inner(source, destination, length, data[9], port, bool(cut & 0x4000))
    if len(data) >= 40 and data[0] >> 4 == 6:
        (length,) = struct.unpack_from(">H", data, 4)
        return Inner(IPv6Address(data[8:24]), IPv6Address(data[24:40]), 40 + length, data[6], _port(data, 42), True)
    return None


def _port(data: bytes, offset: int) -> int | None:
    return int.from_bytes(data[offset : offset + 2], "big") if len(data) >= offset + 2 else None


# --- what leaves ------------------------------------------------------------------------------------------------------


def leaving(link: str, data: bytes) -> Leaving | None:
    """Read the beginning of a UDP datagram in IPv4, or in IPv6 without extensions; None if it is none."""
    if len(data) >= 20 and data[0] >> 4 == 4 and data[9] == UDP:
        port = _port(data, (data[0] & 15) * 4)
        source, destination = data[12:16], data[16:20]
    elif len(data) >= 40 and data[0] >> 4 == 6 and data[6] == UDP:
        port = _port(data, 40)
        source, destination = data[8:24], data[24:40]
    else:
        return None
    return None if port is None else Leaving(ip_address(source), ip_address(destination), port, link)
