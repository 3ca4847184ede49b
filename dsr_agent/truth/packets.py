"""
The self-test's datagrams, as bytes. Pure.

Formats: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP). What lies between the two IP headers is the encapsulation's.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from dsr_agent.state.checksum import internet_checksum
from dsr_agent.state.model import Ip

_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP = struct.Struct(">HHHH")
_DONT_FRAGMENT = 0x4000
_DISCARD = 9  # the port that answers nothing

# Neither packet is ever forwarded: should the tunnel go away in the very moment, nothing leaves this host's network.
_ONE_HOP = 1


def ipv4(source: IPv4Address, destination: IPv4Address, protocol: int, payload: bytes, dscp: int = 0) -> bytes:
    """An IPv4 packet."""
    length = _IPV4.size + len(payload)
    fields = (0x45, dscp << 2, length, 0, _DONT_FRAGMENT, _ONE_HOP, protocol)
    header = _IPV4.pack(*fields, 0, source.packed, destination.packed)
    return _IPV4.pack(*fields, internet_checksum(header), source.packed, destination.packed) + payload


def ipv6(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes, dscp: int = 0) -> bytes:
    """An IPv6 packet."""
    first = 6 << 28 | dscp << 22
    return _IPV6.pack(first, len(payload), protocol, _ONE_HOP, source.packed, destination.packed) + payload


def udp(source: Ip, destination: Ip, port: int, payload: bytes, *, dscp: int = 0) -> bytes:
    """A UDP datagram to *port* in a packet of the addresses' version."""
    length = _UDP.size + len(payload)
    protocol = socket.IPPROTO_UDP
    pseudo = source.packed + destination.packed + struct.pack(">HH", length, protocol)
    body = _UDP.pack(_DISCARD, port, length, 0) + payload
    datagram = _UDP.pack(_DISCARD, port, length, internet_checksum(pseudo + body) or 0xFFFF) + payload
    return ip(source, destination, protocol, datagram, dscp)


def ip(source: Ip, destination: Ip, protocol: int, payload: bytes, dscp: int = 0) -> bytes:
    """A packet of the addresses' version."""
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        return ipv4(source, destination, protocol, payload, dscp)
    assert isinstance(source, IPv6Address)
    assert isinstance(destination, IPv6Address)
    return ipv6(source, destination, protocol, payload, dscp)
