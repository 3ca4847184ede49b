"""Frames as a load balancer sends them, and a sender that hands all of them to the kernel in one call."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.lab.spaces import within

Ip = IPv4Address | IPv6Address

PORT = 5000
PAYLOAD = bytes(32)
GUE_PORT, FOU_PORT = 6080, 5555
GRE_CHECKSUM, GRE_KEY = 0x80, 0x20  # the flags in the first octet of the header that say what follows
CODE = 7
_SOL_PACKET = 263
_PACKET_QDISC_BYPASS = 20
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Flow:
    """One packet: who wrapped it, for which local address, who sent what is inside, and to which VIP."""

    balancer: Ip
    local: Ip
    client: Ip
    vip: Ip
    port: int = 40000  # of the client


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - ((total & 0xFFFF) + (total >> 16))


def _header(source: Ip, target: Ip, protocol: int, length: int, tos: int = 0) -> bytes:
    if source.version == 6:
        return struct.pack("!IHBB", 0x60000000 | tos << 20, length, protocol, 64) + source.packed + target.packed
    plain = struct.pack("!BBHHHBBH", 0x45, tos, 20 + length, 0, 0, 64, protocol, 0) + source.packed + target.packed
    return plain[:10] + struct.pack("!H", _sum(plain)) + plain[12:]


def inner(flow: Flow, code: int = 0) -> bytes:
    """
    The client's own packet, or one that has the code point of the VIP instead, and is for the local address.

    In IPv4 it goes without a checksum, as network cards check it in hardware and the kernel's doing so would make the
    tunnel dearer and the guard look cheaper. IPv6 demands one.
    """
    to = flow.local if code else flow.vip
    length = 8 + len(PAYLOAD)
    udp = struct.pack("!HHHH", flow.port, PORT, length, 0) + PAYLOAD
    if flow.client.version == 6:
        pseudo = flow.client.packed + to.packed + struct.pack("!II", length, socket.IPPROTO_UDP)
        udp = udp[:6] + struct.pack("!H", _sum(pseudo + udp)) + udp[8:]
    return _header(flow.client, to, socket.IPPROTO_UDP, length, code << 2) + udp


def wrapped(packet: bytes, flow: Flow, kind: str, key: int | None = None, *, checksum: bool = False) -> bytes:
    """The packet as the balancer sends it: ``plain`` and ``dscp`` (not wrapped at all), ``ipip``, ``sit``, ``gre`` …"""
    if kind in ("plain", "dscp"):
        return packet
    v4 = packet[0] >> 4 == 4
    protocol = socket.IPPROTO_IPIP if v4 else socket.IPPROTO_IPV6
    if kind == "gre":
        flag, ending = (0, b"") if key is None else (GRE_KEY, struct.pack("!I", key))
        first = struct.pack("!BBH", flag | GRE_CHECKSUM * checksum, 0, 0x0800 if v4 else 0x86DD)
        if checksum:
            whole = first + bytes(4) + ending + packet
            ending = struct.pack("!HH", _sum(whole + bytes(len(whole) % 2)), 0) + ending
        packet = first + ending + packet
        protocol = socket.IPPROTO_GRE
    if kind == "gue":
        packet = struct.pack("!HHHHBBH", flow.port, GUE_PORT, 12 + len(packet), 0, 0, protocol, 0) + packet
        protocol = socket.IPPROTO_UDP
    if kind == "fou":
        packet = struct.pack("!HHHH", flow.port, FOU_PORT, 8 + len(packet), 0) + packet
        protocol = socket.IPPROTO_UDP
    return _header(flow.balancer, flow.local, protocol, len(packet)) + packet


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct mmsghdr``; the last two are ints, each followed by padding."""

    _fields_ = (
        *(("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32)),
        *(("parts", ctypes.POINTER(_Iovec)), ("part_count", ctypes.c_size_t)),
        *(("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t), ("flags", ctypes.c_size_t)),
        ("sent", ctypes.c_size_t),
    )


class Sender:
    """Sends the same frames again and again, through *link* of namespace *space*."""

    def __init__(self, space: str, link: str, mac: str, packets: Sequence[bytes]) -> None:
        self._socket = within(space, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        within(space, lambda: self._socket.bind((link, 0)))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        target = bytes.fromhex(mac.replace(":", ""))
        # Kept, as the kernel reads from them at every call.
        self._frames = [ctypes.create_string_buffer(_ethernet(target, packet), 14 + len(packet)) for packet in packets]
        self._parts = (_Iovec * len(packets))()
        self._messages = (_Message * len(packets))()
        for frame, part, message in zip(self._frames, self._parts, self._messages, strict=True):
            part.base, part.length = ctypes.addressof(frame), len(frame)
            message.parts, message.part_count = ctypes.pointer(part), 1

    def send(self) -> None:
        """All frames, once; the receiving side has done its work when this returns: it happens on this processor."""
        count = len(self._messages)
        sent = _LIBC.sendmmsg(self._socket.fileno(), self._messages, count, 0)
        if sent != count:
            raise OSError(ctypes.get_errno(), f"sendmmsg took {sent} of {count} frames")

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def _ethernet(target: bytes, packet: bytes) -> bytes:
    return target + bytes.fromhex("020000000001") + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def addresses(first: str, count: int) -> list[Ip]:
    """So many addresses, from this one on."""
    return [ip_address(first) + n for n in range(count)]
