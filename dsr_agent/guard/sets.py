"""The sets that the guard's rules ask. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop
from typing import Any

from dsr_agent.state.model import Ip, Network
from dsr_agent.state.table import FilterSet, SetShape, canonical

ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}


def hashed(kind: tuple[str, ...], elements: Iterable[str], *, counted: bool = False) -> FilterSet:
    """A hash table with room for more; *counted*: with a counter for each element."""
    found = frozenset(elements)
    return FilterSet(SetShape(kind, _room(len(found)), counted=counted), found)


def of_addresses(version: int, ips: Iterable[Ip], *, counted: bool = False) -> FilterSet:
    """The addresses of one IP version among *ips*."""
    return hashed((ADDRESS[version],), (element(ip) for ip in ips if ip.version == version), counted=counted)


def element(value: Ip | str | int) -> str:
    """A single value, as nftables spells it: IPv6 addresses that end in an IPv4 address look like it."""
    if isinstance(value, IPv6Address):
        return canonical(inet_ntop(AF_INET6, value.packed))
    return canonical(value if isinstance(value, int) else str(value))


def joined(*parts: Any) -> str:
    """A combination of values."""
    return canonical({"concat": parts})


def networks_of(senders: Iterable[Network]) -> dict[int, set[str]]:
    """The networks' addresses by prefix length: a mask and a hash table cost less than an interval, and stay flat."""
    found: dict[int, set[str]] = {}
    for network in senders:
        found.setdefault(network.prefixlen, set()).add(element(network.network_address))
    return found


def _room(count: int) -> int:
    """
    How many elements a set is made for: told beforehand, the kernel takes a table that is 120 instructions cheaper.

    In few steps, because a set that gets another size begins to count anew.
    """
    room = 1024
    while room < 2 * count:
        room *= 8
    return room
