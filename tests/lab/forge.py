"""Packets byte by byte, as nobody's kernel would send them: headers inside headers, wrong flags, pieces."""

from __future__ import annotations

import struct
from ipaddress import ip_address

IPIP, UDP, SIT, GRE, HOP_BY_HOP, FRAGMENT, DESTINATION = 4, 17, 41, 47, 0, 44, 60
ETH_IP, ETH_IP6 = 0x0800, 0x86DD

# The GRE header's first word.
CHECKSUM, ROUTING, KEY, SEQUENCE, STRICT_ROUTE, RECURSION = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800, 0x0100

SOURCE_PORT = 40000


def internet_checksum(data: bytes) -> int:
    """The one's complement sum that IP, UDP and GRE use."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    options: bytes = b"",
    ident: int = 0,
    whole: bool = False,
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """An IPv4 packet; *offset* (in bytes) and *more* make it a fragment, and *whole* forbids to (DF)."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x40 | words, tos, words * 4 + len(payload), ident, whole << 14 | more << 13 | offset // 8, ttl, protocol, 0),
        *(ip_address(address).packed for address in (source, destination)),
    )
    head += options
    return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + payload


def ip6(source: str, destination: str, following: int, payload: bytes, *, hops: int = 64, tos: int = 0) -> bytes:
    """An IPv6 packet."""
    head = struct.pack("!IHBB", 6 << 28 | tos << 20, len(payload), following, hops)
    return head + ip_address(source).packed + ip_address(destination).packed + payload


def udp(
    source: str, destination: str, port: int, data: bytes, *, source_port: int = SOURCE_PORT, checksum: bool = True
) -> bytes:
    """A UDP datagram, with a checksum over the addresses given or without one."""
    head = struct.pack("!HHH", source_port, port, 8 + len(data))
    if not checksum:
        return head + b"\0\0" + data
    ends = ip_address(source).packed + ip_address(destination).packed
    pseudo = ends + struct.pack("!IBBBB", 8 + len(data), 0, 0, 0, UDP)  # the sum is the same for IPv4's shorter form
    total = internet_checksum(pseudo + head + b"\0\0" + data) or 0xFFFF
    return head + struct.pack("!H", total) + data


def gre(
    payload: bytes,
    kind: int = ETH_IP,
    *,
    key: int | None = None,
    checksum: bool | int = False,
    sequence: int | None = None,
    flags: int = 0,
) -> bytes:
    """A GRE header and what it carries; a number as *checksum* is a wrong one, *flags* are more bits of the header."""
    flags |= CHECKSUM * (checksum is not False) | KEY * (key is not None) | SEQUENCE * (sequence is not None)
    head, tail = struct.pack("!HH", flags, kind), b""
    tail += b"" if key is None else struct.pack("!I", key)
    tail += b"" if sequence is None else struct.pack("!I", sequence)
    if checksum is False:
        return head + tail + payload
    right = internet_checksum(head + bytes(4) + tail + payload)
    return head + struct.pack("!HH", right if checksum is True else checksum, 0) + tail + payload


def fragments(whole: bytes, first: int, ident: int) -> tuple[bytes, bytes]:
    """An IPv4 packet without options in two pieces, *first* bytes (a multiple of eight) behind the first header."""
    source, destination = (str(ip_address(whole[at : at + 4])) for at in (12, 16))
    body, protocol = whole[20:], whole[9]
    return (
        ip4(source, destination, protocol, body[:first], ident=ident, more=True),
        ip4(source, destination, protocol, body[first:], ident=ident, offset=first),
    )


def options6(following: int, payload: bytes) -> bytes:
    """A hop-by-hop or destination options header with nothing but padding, and what follows it."""
    return struct.pack("!BBBBI", following, 0, 1, 4, 0) + payload


def fragment6(following: int, payload: bytes, *, offset: int = 0, more: bool = False, ident: int = 0xA77AC4) -> bytes:
    """An IPv6 fragment header, of a packet that is in one piece if nothing else is said."""
    return struct.pack("!BBHI", following, 0, offset | more, ident) + payload


def long_options6(following: int, payload: bytes) -> bytes:
    """A destination options header of sixteen bytes, and what follows it."""
    return struct.pack("!BBBB12x", following, 1, 1, 12) + payload
