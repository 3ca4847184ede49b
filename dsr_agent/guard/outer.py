"""Who may send into a tunnel: the rules about the outer header. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from dsr_agent.guard.expressions import (
    ACCEPT,
    GRE,
    NOT_OURS,
    UDP,
    Expression,
    bits,
    concat,
    count,
    goto,
    match,
    meta,
    packet,
    refuse,
    rule,
)
from dsr_agent.guard.headers import gre_headers, later_fragment, udp_headers
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.sets import ADDRESS, element, hashed, joined, networks_of
from dsr_agent.state.model import Ip, Network
from dsr_agent.state.table import Chain, FilterSet, Table

_FROM, _FROM6 = "from-", "from6-"
_IP = {4: "ip", 6: "ip6"}
# Asking for UDP's own port asks for UDP, too; where that is known already, for that of any transport is enough.
_UDP_PORT, _PORT = packet("udp", "dport"), packet("th", "dport")


@dataclass(frozen=True, slots=True)
class Entrance:
    """
    One way in: packets of *protocol* to *local* (in GRE: with this *key* and *checksum*; in UDP: to this *port*), from
    *senders*. *direct*: the packet inside follows the UDP header, with nothing in between.

    *name* is the tunnel's; what gets in is counted by it and by sender. No *senders* means anybody. Entrances of one
    name, as there are while a tunnel is replaced, share their senders.
    """

    name: str
    local: Ip
    protocol: int
    senders: tuple[Network, ...]
    key: int | None = None
    checksum: bool = False
    port: int | None = None
    direct: bool = False

    @property
    def version(self) -> int:
        """Of the outer header."""
        return self.local.version

    @property
    def place(self) -> tuple[Ip, int, int | None]:
        """Where its packets arrive."""
        return self.local, self.protocol, self.port


Entrances = tuple[Entrance, ...]
Doors = tuple[tuple[Ip, int], ...]
"""UDP ports at addresses of tunnels."""


def counted_in(tunnel: str, prefixlen: int = 32, version: int = 4) -> str:
    """The name of the set (for anybody: of the counter) that counts what comes in by *tunnel*."""
    # No link can have a slash in its name, so no other tunnel's set is called so. An asterisk at the end of a name is
    # nftables' own language.
    tunnel = tunnel.replace("*", "/any")
    front = _FROM if version == 4 else _FROM6
    return f"{front}{tunnel}" if prefixlen == (32 if version == 4 else 128) else f"{front}{tunnel}/{prefixlen}"


def tunnel_counted_in(name: str) -> str:
    """Which tunnel a set or counter called *name* counts; empty if it counts something else."""
    found = re.fullmatch(r"from6?-(.*?)(/\d+)?", name)
    return found.group(1).replace("/any", "*") if found else ""


def versions_of(entrances: Entrances, shut: Doors = ()) -> tuple[int, ...]:
    """Of the outer headers; without entrances those of IPv4, so that the table always has its sets."""
    return tuple(sorted({entrance.version for entrance in entrances} | {ip.version for ip, _ in shut} or {4}))


def senders_at(there: Table, local: Ip, port: int) -> Iterator[Network]:
    """Who may send to a UDP port, as the table *there* says."""
    for prefixlen in range(local.max_prefixlen + 1):
        found = there.sets.get(_pairs(UDP, local.version, prefixlen))
        for element_ in found.elements if found else ():
            at, number, network = json.loads(element_)["concat"]
            if (ip_address(at), number) == (local, port):
                yield ip_network((network, prefixlen))


def locals_of(version: int) -> str:
    """The name of the set of the tunnels' addresses."""
    return "locals" if version == 4 else "locals6"


def sets(entrances: Entrances, shut: Doors = ()) -> Iterator[tuple[str, FilterSet]]:
    """The sets that `accepting` and `chains` ask; through what is *shut* nobody gets in."""
    for version in versions_of(entrances, shut):
        closed = tuple(door for door in shut if door[0].version == version)
        yield from _sets(tuple(entrance for entrance in entrances if entrance.version == version), version, closed)


def _sets(entrances: Entrances, version: int, shut: Doors) -> Iterator[tuple[str, FilterSet]]:
    address = ADDRESS[version]
    by_tunnel: dict[str, set[Network]] = {}
    for entrance in entrances:
        by_tunnel.setdefault(entrance.name, set()).update(entrance.senders)
    for name, senders in by_tunnel.items():
        for prefixlen, elements in sorted(networks_of(senders).items()):
            yield counted_in(name, prefixlen, version), hashed((address,), elements, counted=True)
    everybody = {network for senders in by_tunnel.values() for network in senders}
    for prefixlen, elements in sorted(networks_of(everybody).items()):
        yield _senders(version, prefixlen), hashed((address,), elements)
    yield locals_of(version), hashed((address,), {element(entrance.local) for entrance in entrances})
    for protocol in (GRE, UDP):
        found: dict[int, set[str]] = {}
        for entrance in entrances:
            for network in entrance.senders if entrance.protocol == protocol else ():
                at = (str(entrance.local), *([entrance.port] if protocol == UDP else []))
                found.setdefault(network.prefixlen, set()).add(joined(*at, str(network.network_address)))
        for prefixlen, elements in sorted(found.items()):
            middle = ("inet_service",) if protocol == UDP else ()
            yield _pairs(protocol, version, prefixlen), hashed((address, *middle, address), elements)
    doors = [*shut, *((entrance.local, entrance.port) for entrance in entrances if entrance.protocol == UDP)]
    if ports := {joined(str(local), port) for local, port in doors}:
        yield _ports(version), hashed((address, "inet_service"), ports)


def counters(entrances: Entrances) -> Iterator[str]:
    """The named counters that `accepting` uses: of the tunnels that are open to anybody."""
    yield from {counted_in(entrance.name) for entrance in entrances if not entrance.senders}


def accepting(entrances: Entrances, shut: Doors = ()) -> Iterator[str]:
    """
    The rules that let in what is good, and those that lead to what looks closer.

    What comes out of a tunnel of ours is not asked here: wrapped in a wrapped packet, anything would get in.
    """
    for entrance in entrances:
        if entrance.protocol not in (GRE, UDP):
            arrives = (match(meta("l4proto"), entrance.protocol), NOT_OURS, _arrives_at(entrance.local))
            yield from (rule(*arrives, *sender, ACCEPT) for sender in _sent_by(entrance))
    if any(entrance.protocol == GRE for entrance in entrances):
        yield rule(match(meta("l4proto"), GRE), NOT_OURS, goto("gre_header"))
    by_udp = {entrance.version for entrance in entrances if entrance.protocol == UDP}
    for version in sorted(by_udp | {ip.version for ip, _ in shut}):
        yield rule(match(concat(_destination(version), _UDP_PORT), f"@{_ports(version)}"), NOT_OURS, goto("udp_header"))


def refusing(entrances: Entrances) -> Iterator[str]:
    """
    The short way out for strangers: an address and a protocol for which everybody who is declared at all is declared.

    Asked after all that let something in, so whoever sends there and was not let in cannot be known.
    """
    for (local, protocol, _), senders in _of_everybody(entrances).items():
        if protocol not in (GRE, UDP) and senders:
            arrives = (match(meta("l4proto"), protocol), NOT_OURS, _arrives_at(local))
            yield rule(*arrives, *refuse(RefusalReason.SOURCE))


def _of_everybody(entrances: Entrances) -> dict[tuple[Ip, int, int | None], set[Network]]:
    """Addresses and protocols, with who is declared for them, where nobody is declared for anything else."""
    everybody = {network for entrance in entrances for network in entrance.senders}
    declared: dict[tuple[Ip, int, int | None], set[Network]] = {}
    for entrance in entrances:
        declared.setdefault(entrance.place, set()).update(entrance.senders)
    open_ = {entrance.place for entrance in entrances if not entrance.senders}
    return {
        place: senders
        for place, senders in declared.items()
        if senders >= {network for network in everybody if network.version == place[0].version} and place not in open_
    }


def chains(entrances: Entrances, shut: Doors = ()) -> Iterator[tuple[str, Chain]]:
    """
    What tunnels in GRE and UDP take, and who was not let in.

    ``gre_header`` is a chain of its own also because nftables 1.0.6 aborts on rules that ask for GRE and then for its
    header.
    """
    if any(entrance.protocol == GRE for entrance in entrances):
        yield "gre_header", Chain(tuple(_gre(entrances)))
    if shut or any(entrance.protocol == UDP for entrance in entrances):
        yield "udp_header", Chain(tuple(_udp(entrances)))
    refused = [rule(known, goto("sender_refused")) for known in asked_for(entrances)]
    refused += [_wrong_header(entrance) for entrance in entrances if _has_header(entrance) and not entrance.senders]
    yield "outer_refused", Chain((*refused, rule(*refuse(RefusalReason.SOURCE))))
    wrong = [line for entrance in entrances for line in _wrong_headers(entrance)]
    yield "sender_refused", Chain((*dict.fromkeys(wrong), rule(*refuse(RefusalReason.PROTOCOL))))


def asked_for(entrances: Entrances) -> Iterator[Expression]:
    """The ways of asking, without counting, whether the sender is one that is declared for any tunnel."""
    everybody = {network for entrance in entrances for network in entrance.senders}
    for version in (4, 6):
        found = {network for network in everybody if network.version == version}
        yield from (_masked(version, n, _senders(version, n)) for n in sorted(networks_of(found), reverse=True))


def _gre(everyone: Entrances) -> Iterator[str]:
    entrances = [entrance for entrance in everyone if entrance.protocol == GRE]
    for entrance in entrances:
        for sender in _sent_by(entrance):
            for header in gre_headers(entrance.key, checksum=entrance.checksum):
                yield rule(_arrives_at(entrance.local), *header, *sender, ACCEPT)
    for (local, protocol, _), senders in _of_everybody(everyone).items():
        if protocol == GRE and senders:  # the short way out for strangers
            lengths = sorted(networks_of(senders), reverse=True)
            known = (_masked(local.version, n, _senders(local.version, n), "!=") for n in lengths)
            yield rule(_arrives_at(local), *known, *refuse(RefusalReason.SOURCE))
    for entrance in entrances:
        # A later fragment has no GRE header to be asked for, and is worth nothing without the first.
        for sender in _sent_by(entrance):
            yield rule(_arrives_at(entrance.local), later_fragment(entrance.version), *sender, ACCEPT)
    for version in versions_of(everyone):
        yield rule(match(_destination(version), f"@{locals_of(version)}"), goto("outer_refused"))


def _udp(everyone: Entrances) -> Iterator[str]:
    """A later fragment has no port, so it never comes here, and is worth nothing without the first."""
    for entrance in everyone:
        if entrance.protocol != UDP or entrance.port is None:
            continue
        for sender in _sent_by(entrance):
            for header in udp_headers(direct=entrance.direct):
                arrives = (_arrives_at(entrance.local), match(_PORT, entrance.port))
                yield rule(*arrives, *header, *sender, ACCEPT)
    yield rule(goto("outer_refused"))


def _has_header(entrance: Entrance) -> bool:
    return entrance.protocol in (GRE, UDP)


def _wrong_headers(entrance: Entrance) -> Iterator[str]:
    """A sender that is declared for GRE at this address, or UDP at this port, and still was not let in."""
    if not _has_header(entrance):
        return
    if not entrance.senders:
        yield _wrong_header(entrance)
    version = entrance.version
    for length in sorted(networks_of(entrance.senders), reverse=True):
        port = [_UDP_PORT] if entrance.protocol == UDP else []
        asked = concat(_destination(version), *port, _sender(version, length))
        known = match(asked, f"@{_pairs(entrance.protocol, version, length)}")
        is_gre = [match(meta("l4proto"), GRE)] if entrance.protocol == GRE else []
        yield rule(*is_gre, known, *refuse(_reason(entrance)))


def _wrong_header(entrance: Entrance) -> str:
    """Where anybody may send, whoever was not let in has sent another header."""
    at_local = _arrives_at(entrance.local)
    if entrance.port is not None:
        return rule(at_local, match(_UDP_PORT, entrance.port), *refuse(_reason(entrance)))
    return rule(match(meta("l4proto"), entrance.protocol), at_local, *refuse(_reason(entrance)))


def _reason(entrance: Entrance) -> RefusalReason:
    return RefusalReason.GRE_HEADER if entrance.protocol == GRE else RefusalReason.UDP_HEADER


def _sent_by(entrance: Entrance) -> Iterator[tuple[Expression, ...]]:
    """The ways of asking for the sender; asking counts the packet."""
    if not entrance.senders:
        yield (count(counted_in(entrance.name)),)
    for length in sorted(networks_of(entrance.senders), reverse=True):
        yield (_masked(entrance.version, length, counted_in(entrance.name, length, entrance.version)),)


def _masked(version: int, length: int, name: str, op: str = "==") -> Expression:
    return match(_sender(version, length), f"@{name}", op)


def _sender(version: int, length: int) -> Expression:
    """The source's address, or that of its network."""
    source = packet(_IP[version], "saddr")
    if length == (32 if version == 4 else 128):
        return source
    return bits(source, str(ip_network(f"{'0.0.0.0' if version == 4 else '::'}/{length}").netmask))


def _destination(version: int) -> Expression:
    return packet(_IP[version], "daddr")


def _arrives_at(local: Ip) -> Expression:
    return match(_destination(local.version), str(local))


def _senders(version: int, length: int) -> str:
    return f"senders{length}" if version == 4 else f"senders6/{length}"


def _pairs(protocol: int, version: int, length: int) -> str:
    front = "gre_" if protocol == GRE else "udp_"
    return f"{front}{_senders(version, length)}"


def _ports(version: int) -> str:
    return "ports" if version == 4 else "ports6"
