"""
What the guard's table has counted, by hand: 10,000 VIPs' counts take a tenth of what libnftables needs for them.

One dump for the named counters, one for the sets, and one for each set whose elements count.

Sources: ``include/uapi/linux/netfilter/nf_tables.h``, ``nf_tables_fill_setelem`` in ``net/netfilter/nf_tables_api.c``,
``net/netfilter/nft_counter.c``; the types of keys are those of nftables' ``include/datatype.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from socket import AF_INET6, inet_ntoa, inet_ntop

from dsr_agent.kernel.netlink import NETLINK_NETFILTER, Channel, Message, attribute, attributes
from dsr_agent.state.count import Count, Place
from dsr_agent.state.table import NAME, canonical

_SUBSYSTEM_NFTABLES = 10 << 8
_GETSET, _GETSETELEM, _GETOBJ = (_SUBSYSTEM_NFTABLES | kind for kind in (10, 13, 19))
_GENERAL = bytes([1, 0, 0, 0])  # struct nfgenmsg: NFPROTO_INET, version 0, no resource

_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_EXPR = 1, 2, 3, 4, 17
_FLAG_INTERVAL = 0x4
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_EXPR = 1, 7
_EXPR_DATA = 2
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 1, 2, 3, 4
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_TYPE_COUNTER = 1

_LENGTH = struct.Struct("=H")
_NUMBER = struct.Struct(">Q")


class GuardCounts:
    """Reads them. The socket is opened at the first look: for one thread at a time."""

    def __init__(self) -> None:
        self._channel: Channel | None = None

    def read(self) -> dict[Place, Count] | None:
        """All of them; None where there is no table, or it cannot be read."""
        try:
            if self._channel is None:
                self._channel = Channel(NETLINK_NETFILTER)
            return dict(_read(self._channel)) or None
        except OSError:
            return None

    def close(self) -> None:
        """Give the socket back."""
        if self._channel:
            self._channel.close()


def _read(channel: Channel) -> Iterator[tuple[Place, Count]]:
    table = NAME.encode() + b"\0"
    asked = attribute(_OBJECT_TABLE, table) + attribute(_OBJECT_TYPE, struct.pack(">I", _TYPE_COUNTER))
    for message in channel.dump(_GETOBJ, _GENERAL + asked):
        found = dict(attributes(message.body, 4))
        numbers = dict(attributes(found[_OBJECT_DATA], 0))
        count = Count(*(int.from_bytes(numbers[kind], "big") for kind in (_COUNTER_PACKETS, _COUNTER_BYTES)))
        yield (_text(found[_OBJECT_NAME]), ""), count
    for message in channel.dump(_GETSET, _GENERAL + attribute(_SET_TABLE, table)):
        found = dict(attributes(message.body, 4))
        spell = _SPELLINGS.get(int.from_bytes(found[_SET_KEY_TYPE], "big"))
        interval = int.from_bytes(found.get(_SET_FLAGS, b""), "big") & _FLAG_INTERVAL
        if spell and not interval and _SET_EXPR in found:
            asked = attribute(_LIST_TABLE, table) + attribute(_LIST_SET, found[_SET_NAME])
            name = _text(found[_SET_NAME])
            for part in channel.dump(_GETSETELEM, _GENERAL + asked):
                for key, count in _elements(part):
                    yield (name, spell(key)), count


def _elements(message: Message) -> Iterator[tuple[bytes, Count]]:
    """
    The keys and counts of the elements in one message.

    All elements of a set are laid out alike as far as the counter; only the first is looked at piece by piece.
    """
    listed = dict(attributes(message.body, 4)).get(_LIST_ELEMENTS, b"")
    if not listed:
        return
    key, packets, octets = _layout(listed)
    offset, number, length = 0, _NUMBER.unpack_from, _LENGTH.unpack_from
    while offset < len(listed):
        start, end = offset + key.start, offset + key.stop
        yield listed[start:end], Count(*number(listed, offset + packets), *number(listed, offset + octets))
        offset += (length(listed, offset)[0] + 3) & ~3


def _layout(listed: bytes) -> tuple[slice, int, int]:
    """Where in an element its key is, its packets and its bytes, counted from its beginning."""
    element = _place(listed, 0, len(listed), 1)
    value = _place(listed, *_place(listed, *element, _ELEMENT_KEY), 1)
    counter = _place(listed, *_place(listed, *element, _ELEMENT_EXPR), _EXPR_DATA)
    numbers = [_place(listed, *counter, kind)[0] for kind in (_COUNTER_PACKETS, _COUNTER_BYTES)]
    return slice(*value), numbers[0], numbers[1]


def _place(data: bytes, start: int, end: int, wanted: int) -> tuple[int, int]:
    """Where the value of attribute *wanted* begins and ends, among those between *start* and *end*."""
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, start)
        if kind & 0x3FFF == wanted:
            return start + 4, start + length
        start += (max(length, 4) + 3) & ~3
    raise OSError(f"an element without attribute {wanted}")


# --- keys as the table's texts have them ------------------------------------------------------------------------------


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "replace")


def _ipv4(key: bytes) -> str:
    return f'"{inet_ntoa(key)}"'


def _ipv6(key: bytes) -> str:
    return f'"{inet_ntop(AF_INET6, key)}"'


def _link(key: bytes) -> str:
    return canonical(_text(key))


def _link_and(address: Callable[[bytes], str]) -> Callable[[bytes], str]:
    return lambda key: f'{{"concat":[{_link(key[:16])},{address(key[16:])}]}}'


_IPV4, _IPV6, _IFNAME = 7, 8, 41
_SPELLINGS: dict[int, Callable[[bytes], str]] = {
    _IPV4: _ipv4,
    _IPV6: _ipv6,
    _IFNAME: _link,
    _IFNAME << 6 | _IPV4: _link_and(_ipv4),
    _IFNAME << 6 | _IPV6: _link_and(_ipv6),
}
