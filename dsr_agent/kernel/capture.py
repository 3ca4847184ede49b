"""
A short look at what load balancers really send: the outer headers, as they reach this host's network cards.

Packet sockets see a packet before netfilter does, so also what a firewall of this host drops; what XDP or an ingress
filter of tc (or the network card itself) drops before is not seen. A second socket sees the UDP datagrams that leave.

Sources: ``packet(7)``, ``include/uapi/linux/filter.h``, ``include/net/gue.h``, RFC 791, RFC 2784, RFC 2890.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from select import select

from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import NotPermitted
from dsr_agent.state.model import Ip, Network

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_TO_THIS_HOST, _LEAVING = 0, 4  # PACKET_HOST, PACKET_OUTGOING
# Loopback, and links that decapsulate: what is seen there was seen before, or is the self-test.
_NO_CARDS = (772, 768, 769, 776, 778, 823)

IPIP, UDP, SIXINFOUR, GRE = 4, 17, 41, 47
_WRAPPED = (IPIP, SIXINFOUR, GRE)
_TCP = 6
_GUE_CONTROL = 0x20
_CHECKSUM, _KEY, _SEQUENCE = 0x8000, 0x2000, 0x1000

_ENOUGH = 2000  # packets that are looked at; a busy server gets as many in a millisecond, and they say the same
_ROOM = 160  # bytes of each that are looked at
_BUFFER = 1 << 21
_UNFILTERED = 10_000  # more do not fit a buffer as the kernel makes it
_FILTERED_SENDERS = 100  # networks; the kernel takes 4096 instructions


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
        name = {_TCP: "tcp", UDP: "udp"}.get(self.protocol)
        return f"{name}/{self.port}" if name and self.port is not None else ""


@dataclass(frozen=True, slots=True)
class Outer:
    """
    One packet that reached *link* for this host, by its outer header.

    *flags* are GRE's first two bytes, and *key* its key. What is wrapped in UDP has an *inner*, too. *fragment* is true
    of any piece of a larger packet; only the first has a GRE header and an *inner* to be read.
    """

    link: str
    source: IPv4Address
    destination: IPv4Address
    protocol: int
    length: int
    fragment: bool = False
    later: bool = False
    flags: int = 0
    key: int | None = None
    inner: Inner | None = None

    @property
    def wrapped(self) -> bool:
        """Whether it holds another packet."""
        return self.protocol in _WRAPPED

    @property
    def checksum(self) -> bool:
        """Whether GRE brings a checksum."""
        return bool(self.flags & _CHECKSUM)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A UDP datagram that left this host."""

    source: Ip
    destination: Ip
    port: int
    link: str


@dataclass(frozen=True, slots=True)
class Captured:
    """All that was seen; *complete* is false if there was more than was looked at."""

    arrived: tuple[Outer, ...] = ()
    left: tuple[Leaving, ...] = ()
    complete: bool = True


@dataclass(slots=True)
class _Seen:
    arrived: list[Outer] = field(default_factory=list)
    left: dict[Leaving, None] = field(default_factory=dict)
    looked_at: int = 0


class Capture:
    """
    Sees packets from the moment that it is made. Needs CAP_NET_RAW, and says so: raises `NotPermitted`.

    *senders* are those of whom every packet counts, wrapped or not; *ports* those from which UDP datagrams leave.
    """

    def __init__(self, senders: Iterable[Network], ports: Collection[int]) -> None:
        self._sockets: list[socket.socket] = []
        self._seen = _Seen()
        self._senders = [network for network in senders if isinstance(network, IPv4Network)][:_FILTERED_SENDERS]
        try:
            self._open(_ETH_P_IP, _arriving(self._senders))
            if ports:
                self._open(_ETH_P_ALL, _leaving(sorted(ports)[:_FILTERED_SENDERS]))
        except OSError as error:
            self.close()
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotPermitted(
                    f"what arrives cannot be looked at: the kernel says {error.strerror!r}",
                    "run as root or with CAP_NET_RAW",
                ) from None
            raise explain(error.errno or 0, "what arrives cannot be looked at") from None

    def _open(self, protocol: int, instructions: list[_Instruction]) -> None:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(protocol))
        self._sockets.append(made)
        made.setblocking(False)
        _attach(made, instructions)
        with contextlib.suppress(OSError):  # what got in before the filter was there
            for _ in range(_UNFILTERED):
                made.recv(0)
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def close(self) -> None:
        """Give the sockets back."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def watch(self, until: float) -> Captured:
        """Take what comes until *until* (`time.monotonic`), or until enough has been seen. Blocks."""
        while self._sockets and self._seen.looked_at < _ENOUGH and (left := until - time.monotonic()) > 0:
            for ready in select(self._sockets, [], [], left)[0]:
                self._take(ready)
        complete = self._seen.looked_at < _ENOUGH
        return Captured(tuple(self._seen.arrived), tuple(self._seen.left), complete)

    def _take(self, ready: socket.socket) -> None:
        for _ in range(_ENOUGH):
            try:
                data, (link, protocol, direction, hardware, _) = ready.recvfrom(_ROOM)
            except OSError:  # nothing more; or the link went down, which is another one's subject
                return
            if hardware in _NO_CARDS or direction not in (_TO_THIS_HOST, _LEAVING):
                continue  # one that got in while the filter was being attached
            self._seen.looked_at += 1
            if direction == _LEAVING:
                if found := leaving(link, protocol, data):
                    self._seen.left[found] = None
            elif outer := arriving(link, data):
                self._seen.arrived.append(outer)


# --- what the bytes mean ----------------------------------------------------------------------------------------------


def arriving(link: str, data: bytes) -> Outer | None:
    """Read the beginning of an IPv4 packet; None if it is not one."""
    if len(data) < 20 or data[0] >> 4 != 4 or (start := (data[0] & 15) * 4) < 20:
        return None
    length, _, cut = struct.unpack_from(">HHH", data, 2)
    later, more = bool(cut & 0x1FFF), bool(cut & 0x2000)
    protocol = data[9]
    flags, key, inner = 0, None, None
    if not later and protocol == UDP:
        inner = _in_udp(data[start:])
    elif not later and protocol in _WRAPPED:
        flags, key, offset = _gre(data, start) if protocol == GRE else (0, None, start)
        inner = _inner(data[offset:]) if offset else None
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    return Outer(link, source, destination, protocol, length, later or more, later, flags, key, inner)


def _in_udp(data: bytes) -> Inner | None:
    """The packet in a UDP datagram, if there is one: behind a header of GUE, or at once (GUE variant 1, FOU)."""
    if len(data) < 10:
        return None
    first, protocol = data[8:10]
    if first >> 6 == 0 and not first & _GUE_CONTROL and protocol in (IPIP, SIXINFOUR):
        return _inner(data[12 + (first & 31) * 4 :])
    return _inner(data[8:]) if first >> 4 in (4, 6) else None


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


def leaving(link: str, protocol: int, data: bytes) -> Leaving | None:
    """Read the beginning of a UDP datagram in IPv4 or IPv6; None if it is none."""
    if protocol == _ETH_P_IP and len(data) >= 20 and data[9] == UDP:
        port = _port(data, (data[0] & 15) * 4)
        source, destination = data[12:16], data[16:20]
    elif protocol == _ETH_P_IPV6 and len(data) >= 40 and data[6] == UDP:
        port = _port(data, 40)
        source, destination = data[8:24], data[24:40]
    else:
        return None
    return None if port is None else Leaving(ip_address(source), ip_address(destination), port, link)


# --- classic BPF ------------------------------------------------------------------------------------------------------

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand

_LOAD, _LOAD_HALF, _LOAD_BYTE, _AND, _EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x54, 0x15, 0x06
_LOAD_INDEXED_HALF, _LOAD_HEADER_LENGTH = 0x48, 0xB1
_KERNEL = 0xFFFFF000  # what the kernel knows beside the bytes lies there (SKF_AD_OFF)
_PROTOCOL_AT, _DIRECTION_AT, _HARDWARE_AT = _KERNEL, _KERNEL + 4, _KERNEL + 28
_TAKE, _LEAVE = (_RETURN, 0, 0, _ROOM), (_RETURN, 0, 0, 0)


def _only(direction: int) -> Iterator[_Instruction]:
    yield (_LOAD, 0, 0, _DIRECTION_AT)
    yield from ((_EQUAL, 1, 0, direction), _LEAVE)
    yield (_LOAD, 0, 0, _HARDWARE_AT)
    for kind in _NO_CARDS:
        yield from ((_EQUAL, 0, 1, kind), _LEAVE)


def _arriving(senders: Iterable[IPv4Network]) -> list[_Instruction]:
    """What is wrapped, and what *senders* send."""
    found = [*_only(_TO_THIS_HOST), (_LOAD_BYTE, 0, 0, 9)]
    for protocol in _WRAPPED:
        found += [(_EQUAL, 0, 1, protocol), _TAKE]
    for network in senders:
        found += [(_LOAD, 0, 0, 12), (_AND, 0, 0, int(network.netmask))]
        found += [(_EQUAL, 0, 1, int(network.network_address)), _TAKE]
    return [*found, _LEAVE]


def _leaving(ports: Collection[int]) -> list[_Instruction]:
    """UDP datagrams from *ports*; of IPv6 only those without extension headers."""
    from_ports = [each for port in ports for each in ((_EQUAL, 0, 1, port), _TAKE)]
    ipv4 = [(_LOAD_BYTE, 0, 0, 9), (_EQUAL, 1, 0, UDP), _LEAVE, (_LOAD_HEADER_LENGTH, 0, 0, 0)]
    ipv4 += [(_LOAD_INDEXED_HALF, 0, 0, 0), *from_ports, _LEAVE]
    ipv6 = [(_LOAD_BYTE, 0, 0, 6), (_EQUAL, 1, 0, UDP), _LEAVE, (_LOAD_HALF, 0, 0, 40), *from_ports, _LEAVE]
    jump = (0x05, 0, 0, len(ipv4))
    which = [(_LOAD, 0, 0, _PROTOCOL_AT), (_EQUAL, 1, 0, _ETH_P_IP), jump]
    is_ipv6 = [(_EQUAL, 1, 0, _ETH_P_IPV6), _LEAVE]
    return [*_only(_LEAVING), *which, *ipv4, *is_ipv6, *ipv6]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _attach(to: socket.socket, instructions: list[_Instruction]) -> None:
    packed = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
