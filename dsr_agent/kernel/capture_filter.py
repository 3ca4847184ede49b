"""
Which packets `capture` is given, as programs of classic BPF: a few instructions for each packet that is none of them.

Sources: ``include/uapi/linux/filter.h``, ``packet(7)``. The network header begins at 0. Pure but for `attach`.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from dsr_agent.kernel.headers import FRAGMENT, OPTIONS, UDP, WRAPPED
from dsr_agent.state.model import Ip, Network

TO_THIS_HOST, LEAVING = 0, 4  # PACKET_HOST, PACKET_OUTGOING
# Loopback, and links that decapsulate: what is seen there was seen before, or is the self-test.
NO_CARDS = (772, 768, 769, 776, 778, 823)
ROOM = 256  # bytes of each packet that are looked at

_SO_ATTACH_FILTER = 26
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
# Networks of senders, and of the other sorts each: the kernel takes 4096 instructions, and has no more than 20 kB for
# what it makes of them (``net.core.optmem_max`` before Linux 6.9).
_SENDERS, _SEVERAL = 64, 32
_EXTENSIONS = 3  # of an IPv6 header that are seen through


@dataclass(frozen=True)
class Sought:
    """
    What is worth a look, beside everything that is wrapped.

    *senders* are those of whom every packet counts; *doors* the UDP ports at which packets are wrapped in UDP;
    *marked_at* addresses to which packets with a code point are sent, *plain* those that get packets as they are;
    *answered_from* the ports from which UDP datagrams leave.
    """

    senders: tuple[Network, ...] = ()
    doors: tuple[int, ...] = ()
    marked_at: tuple[Ip, ...] = ()
    plain: tuple[Ip, ...] = ()
    answered_from: tuple[int, ...] = ()


Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
Jump = tuple[int, str, int]  # code, where to if true (else on with the next), operand
Line = Instruction | Jump | str  # one by itself is a place to jump to

_LOAD, _LOAD_HALF, _LOAD_BYTE, _AND, _EQUAL, _ANY_BIT, _GO_TO, _RETURN = 0x20, 0x28, 0x30, 0x54, 0x15, 0x45, 0x05, 0x06
_LOAD_INDEXED_HALF, _LOAD_INDEXED_BYTE, _LOAD_HEADER_LENGTH, _LOAD_NUMBER = 0x48, 0x50, 0xB1, 0x00
_KEEP, _RECALL, _TO_INDEX, _SET_INDEX = 0x02, 0x60, 0x07, 0x01
_SHIFT_LEFT, _ADD, _ADD_INDEX = 0x64, 0x04, 0x0C
_KERNEL = 0xFFFFF000  # what the kernel knows beside the bytes lies there (SKF_AD_OFF)
_PROTOCOL_AT, _DIRECTION_AT, _HARDWARE_AT = _KERNEL, _KERNEL + 4, _KERNEL + 28
_TAKE, _LEAVE = (_RETURN, 0, 0, ROOM), (_RETURN, 0, 0, 0)


def _assembled(lines: Sequence[Line]) -> list[Instruction]:
    """With the places that are jumped to as distances; only what goes there in any case may go far."""
    places: dict[str, int] = {}
    steps: list[Instruction | Jump] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(steps)
        else:
            steps.append(line)
    return [_instruction(line, here, places) for here, line in enumerate(steps, 1)]


def _instruction(line: Instruction | Jump, here: int, places: Mapping[str, int]) -> Instruction:
    if len(line) == 4:
        return line
    code, to, operand = line
    distance = places[to] - here
    return (code, 0, 0, distance) if code == _GO_TO else (code, distance, 0, operand)


def _only(direction: int) -> Iterator[Instruction]:
    yield (_LOAD, 0, 0, _DIRECTION_AT)
    yield from ((_EQUAL, 1, 0, direction), _LEAVE)
    yield (_LOAD, 0, 0, _HARDWARE_AT)
    for kind in NO_CARDS:
        yield from ((_EQUAL, 0, 1, kind), _LEAVE)


def _take_any(values: Iterable[int]) -> list[Instruction]:
    """Take the packet if what was loaded is one of *values*."""
    return [each for value in values for each in ((_EQUAL, 0, 1, value), _TAKE)]


# --- what arrives -----------------------------------------------------------------------------------------------------

_AT = {4: 12, 6: 8}  # both addresses, source and destination
_WORDS = {4: 1, 6: 4}
_DONE = "not wrapped"


def arriving(version: int, sought: Sought) -> list[Instruction]:
    """What is wrapped, and the rest of what is *sought*, in packets of one *version*."""
    doors = _take_any(sorted(sought.doors)[:_SEVERAL])
    senders = [network for network in sought.senders if network.version == version][:_SENDERS]
    return _assembled(
        [
            *_only(TO_THIS_HOST),
            *(_wrapped4(doors) if version == 4 else _wrapped6(doors)),
            _DONE,
            *_remembered(version),
            *_marked(version, sought.marked_at),
            *_to(version, sought.plain),
            *(each for network in senders for each in _matching(network, _SOURCE)),
            _LEAVE,
        ]
    )


def _wrapped4(doors: list[Instruction]) -> list[Line]:
    """UDP has its ports in the first fragment only."""
    wrapped: list[Line] = [(_LOAD_BYTE, 0, 0, 9), *_take_any(WRAPPED)]
    if not doors:
        return wrapped
    return [
        *wrapped,
        *((_EQUAL, 1, 0, UDP), (_GO_TO, _DONE, 0)),
        *((_LOAD_HALF, 0, 0, 6), (_ANY_BIT, 0, 1, 0x1FFF), (_GO_TO, _DONE, 0)),
        *((_LOAD_HEADER_LENGTH, 0, 0, 0), (_LOAD_INDEXED_HALF, 0, 0, 2), *doors),
    ]


def _wrapped6(doors: list[Instruction]) -> list[Line]:
    """
    The same behind a few extensions of the IPv6 header.

    The place of the header that is looked at is in the index, and which one it is in the accumulator.
    """
    return [
        *((_SET_INDEX, 0, 0, 40), (_LOAD_BYTE, 0, 0, 6)),
        *(line for number in range(_EXTENSIONS) for line in _extension(number)),
        *_take_any(WRAPPED),
        (_EQUAL, "udp", UDP),
        (_GO_TO, _DONE, 0),
        # A later fragment says what the packet has behind the header, and has no more of it.
        "later",
        (_LOAD_INDEXED_BYTE, 0, 0, 0),
        *_take_any(WRAPPED),
        (_GO_TO, _DONE, 0),
        "udp",
        (_LOAD_INDEXED_HALF, 0, 0, 2),
        *doors,
    ]


def _extension(number: int) -> list[Line]:
    """Look at the header that is next; where it is an extension, go on behind it."""
    over: list[Line] = [(_EQUAL, f"options {number}", kind) for kind in OPTIONS]
    keep_next: list[Line] = [(_LOAD_INDEXED_BYTE, 0, 0, 0), (_KEEP, 0, 0, 0)]
    return [
        *_take_any(WRAPPED),
        (_EQUAL, "udp", UDP),
        (_EQUAL, f"fragment {number}", FRAGMENT),
        *over,
        (_GO_TO, _DONE, 0),
        f"fragment {number}",
        (_LOAD_INDEXED_HALF, 0, 0, 2),
        (_ANY_BIT, "later", 0xFFF8),
        *keep_next,
        (_LOAD_NUMBER, 0, 0, 8),
        (_GO_TO, f"next {number}", 0),
        f"options {number}",
        *keep_next,
        *((_LOAD_INDEXED_BYTE, 0, 0, 1), (_SHIFT_LEFT, 0, 0, 3), (_ADD, 0, 0, 8)),
        f"next {number}",
        *((_ADD_INDEX, 0, 0, 0), (_TO_INDEX, 0, 0, 0), (_RECALL, 0, 0, 0)),
    ]


# Where the addresses are kept: the kernel makes a dozen instructions of each look at the packet.
_SOURCE, _DESTINATION = 1, 5


def _remembered(version: int) -> Iterator[Instruction]:
    for number in range(2 * _WORDS[version]):
        yield (_LOAD, 0, 0, _AT[version] + 4 * number)
        which, word = divmod(number, _WORDS[version])
        yield (_KEEP, 0, 0, (_SOURCE, _DESTINATION)[which] + word)


def _marked(version: int, ips: Iterable[Ip]) -> list[Line]:
    """What is sent to one of *ips* with a code point."""
    to = _to(version, ips)
    if not to:
        return []
    load, mask = (_LOAD_BYTE, 0, 0, 1), (_AND, 0, 0, 0xFC)
    if version == 6:
        load, mask = (_LOAD_HALF, 0, 0, 0), (_AND, 0, 0, 0x0FC0)
    return [load, mask, (_EQUAL, 0, 1, 0), (_GO_TO, "not marked", 0), *to, "not marked"]


def _to(version: int, ips: Iterable[Ip]) -> list[Instruction]:
    some = [ip_network(ip) for ip in ips if ip.version == version][:_SEVERAL]
    return [each for network in some for each in _matching(network, _DESTINATION)]


def _matching(network: Network, which: int) -> list[Instruction]:
    """Take the packet if *which* address is in *network*; put together from its end, so that it can be left."""
    found: list[Instruction] = [_TAKE]
    for place, (value, mask) in reversed(list(enumerate(_words(network)))):
        masked = [(_AND, 0, 0, mask)] if mask != 0xFFFFFFFF else []
        found = [(_RECALL, 0, 0, which + place), *masked, (_EQUAL, 0, len(found), value), *found]
    return found


def _words(network: Network) -> list[tuple[int, int]]:
    """The four-byte words of the address that count, and their masks."""
    address, mask = network.network_address.packed, network.netmask.packed
    words = zip(struct.iter_unpack(">I", address), struct.iter_unpack(">I", mask), strict=True)
    return [(value, bits) for (value,), (bits,) in words if bits]


# --- what leaves ------------------------------------------------------------------------------------------------------


def leaving(sought: Sought) -> list[Instruction]:
    """UDP datagrams that are answers; of IPv6 only those without extension headers."""
    from_ports = _take_any(sorted(sought.answered_from)[:_SEVERAL])
    return _assembled(
        [
            *_only(LEAVING),
            *((_LOAD, 0, 0, _PROTOCOL_AT), (_EQUAL, "ipv4", _ETH_P_IP), (_EQUAL, "ipv6", _ETH_P_IPV6), _LEAVE),
            *("ipv4", (_LOAD_BYTE, 0, 0, 9), (_EQUAL, 1, 0, UDP), _LEAVE),
            *((_LOAD_HEADER_LENGTH, 0, 0, 0), (_LOAD_INDEXED_HALF, 0, 0, 0), *from_ports, _LEAVE),
            *("ipv6", (_LOAD_BYTE, 0, 0, 6), (_EQUAL, 1, 0, UDP), _LEAVE),
            *((_LOAD_HALF, 0, 0, 40), *from_ports, _LEAVE),
        ]
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def attach(to: socket.socket, instructions: list[Instruction]) -> None:
    """Have *to* given only what the program takes."""
    packed = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
