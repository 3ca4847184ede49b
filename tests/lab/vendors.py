"""
What balancers put around a packet that no kernel of ours would: each field as its source code or its manual has it.

katran: ``pckt_encap.h`` and ``encap_helpers.h`` in katran/lib/bpf. glb-director: ``glb_encap.c``. What appliances write
into the outer header is not documented; here it is what a kernel would not write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from tests.lab import forge
from tests.lab.world import BALANCER_IP, BALANCER_IP6, RS1, SERVER_IP, SERVER_IP6

Form = Callable[[str, str, bytes], tuple[int, bytes]]
"""What is put around a packet from one address to another: the outer header's protocol, and all that follows it."""
Head = Callable[[int], bytes]
"""What stands before a packet of a version of IP, behind the UDP header."""
Number = Callable[[bytes], int]

_IPIP = {4: forge.IPIP, 6: forge.SIT}
_ETHERTYPE = {4: forge.ETH_IP, 6: forge.ETH_IP6}


def version_of(packet: bytes) -> int:
    """4 or 6."""
    return packet[0] >> 4


# --- forms ------------------------------------------------------------------------------------------------------------


def ipip(source: str, to: str, packet: bytes) -> tuple[int, bytes]:
    """Nothing between the headers."""
    return _IPIP[version_of(packet)], packet


def gre(**fields: Any) -> Form:
    """GRE, see `forge.gre`."""
    return lambda source, to, packet: (forge.GRE, forge.gre(packet, _ETHERTYPE[version_of(packet)], **fields))


def nothing(version: int) -> bytes:
    """The packet right behind the UDP header: FOU, and GUE in variant 1."""
    return b""


def gue(fields: bytes = b"") -> Head:
    """GUE with *fields*, which make whole words."""
    return lambda version: struct.pack(">BBH", len(fields) // 4, _IPIP[version], 0) + fields


def udp(port: int, head: Head, *, checksum: bool = False, source_port: Number = lambda packet: 0xC000) -> Form:
    """In UDP, from a port that may depend on the packet."""

    def form(source: str, to: str, packet: bytes) -> tuple[int, bytes]:
        data = head(version_of(packet)) + packet
        return forge.UDP, forge.udp(source, to, port, data, source_port=source_port(packet), checksum=checksum)

    return form


# --- whole packets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A sender that writes the outer header itself; *fields* are those of `forge.ip4` or `forge.ip6`."""

    outer: int
    form: Form
    source: Callable[[bytes], str]
    fields: Callable[[bytes], dict[str, Any]] = field(default=lambda packet: {})

    def wrap(self, packet: bytes) -> bytes:
        """What is sent to the real server for *packet*."""
        source, to = self.source(packet), (SERVER_IP if self.outer == 4 else SERVER_IP6)[RS1]
        protocol, payload = self.form(source, to, packet)
        return (forge.ip4 if self.outer == 4 else forge.ip6)(source, to, protocol, payload, **self.fields(packet))


def _own(outer: int) -> Callable[[bytes], str]:
    return lambda packet: BALANCER_IP if outer == 4 else BALANCER_IP6


def _tos(packet: bytes) -> int:
    """The TOS byte, or the traffic class."""
    return packet[1] if version_of(packet) == 4 else int.from_bytes(packet[:2], "big") >> 4 & 0xFF


def _appliance(outer: int, form: Form) -> Made:
    """From another address than the one it is reached at, not to be fragmented, with a code point of its own."""
    source = "10.2.0.6" if outer == 4 else "fd00:2::6"
    fields = {"tos": 0xB8, "ttl": 255, "ident": 0xBEEF, "whole": True} if outer == 4 else {"tos": 0xB8, "hops": 255}
    return Made(outer, form, lambda packet: source, lambda packet: fields)


def appliance_ipip(outer: int) -> Made:
    """IP in IP."""
    return _appliance(outer, ipip)


def appliance_gre(outer: int) -> Made:
    """GRE in version 0, without key and checksum."""
    return _appliance(outer, gre())


def coded_ipip(code: int) -> Callable[[int], Made]:
    """IP in IP by a balancer that copies a code point into the outer header."""
    return lambda outer: Made(outer, ipip, _own(outer), lambda packet: {"tos": code << 2})


def fou(outer: int) -> Made:
    """IP behind UDP."""
    return Made(outer, udp(6080, nothing, checksum=True), _own(outer))


# Type 0, the next hop's index, and two more servers.
_GLB = struct.pack(">HBB4s4s", 0, 0, 2, b"\x0a\x03\x00\x0c", b"\x0a\x03\x00\x0d")


def glb(outer: int) -> Made:
    """glb-director: always the highest bit in the source port, not to be fragmented, no identification."""
    form = udp(19523, gue(_GLB), source_port=lambda packet: 0x8000 | sum(packet[12:20]))
    return Made(outer, form, _own(outer), lambda packet: {"whole": True} if outer == 4 else {})


def private_gue(outer: int) -> Made:
    """The same data by a sender that has checksums."""
    return Made(outer, udp(19523, gue(_GLB), checksum=True), _own(outer))


# --- katran -----------------------------------------------------------------------------------------------------------


def _flow(packet: bytes) -> tuple[bytes, bytes]:
    """The last (IPv4: only) four bytes of the client's address, and its port."""
    if version_of(packet) == 4:
        ports = (packet[0] & 15) * 4
        return packet[12:16], packet[ports : ports + 2]
    return packet[20:24], packet[40:42]


def _katran4(packet: bytes) -> str:
    """172.16, and what the client's address and port make."""
    client, port = _flow(packet)
    return f"172.16.{client[2] ^ port[1]}.{client[3] ^ port[0]}"


def _katran6(packet: bytes) -> str:
    """In 0100::/64 (RFC 6666, discard only)."""
    client, port = _flow(packet)
    end = bytes([client[0] ^ port[0], client[1] ^ port[1], *client[2:]])
    return str(ip_address(b"\x01" + bytes(11) + end))


def _katran_port(outer: int) -> Number:
    def number(packet: bytes) -> int:
        client, port = _flow(packet)
        if outer == 4:
            pair = client[2] ^ port[1], client[3] ^ port[0]
        elif version_of(packet) == 4:
            pair = client[2] ^ port[0], client[3] ^ port[1]
        else:
            pair = client[0] ^ port[0], client[1] ^ port[1]
        return int.from_bytes(bytes(pair), "big")

    return number


def katran_ipip(outer: int) -> Made:
    """Sources that tell flows apart, so that the real server's queues share the work; the TOS byte is copied."""
    return Made(outer, ipip, _katran4 if outer == 4 else _katran6, lambda packet: {"tos": _tos(packet)})


def katran_gue(outer: int) -> Made:
    """What katran calls GUE: nothing between UDP and the packet (variant 1), no checksum, in IPv6 neither."""
    form = udp(6080, nothing, source_port=_katran_port(outer))
    return Made(outer, form, _own(outer), lambda packet: {"tos": _tos(packet)})
