"""Who may send into a tunnel: the rules about the outer header. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from dsr_agent.guard.expressions import (
    ACCEPT,
    GRE,
    NOT_OURS,
    Expression,
    bits,
    concat,
    count,
    goto,
    match,
    meta,
    packet,
    raw,
    refuse,
    rule,
)
from dsr_agent.guard.reasons import Reason
from dsr_agent.guard.sets import ADDRESS, element, hashed, joined, networks_of
from dsr_agent.state.model import Ip, Network
from dsr_agent.state.table import Chain, FilterSet

# The flags that a tunnel takes are those it is declared with (RFC 2784, 2890); a balancer may number its packets as it
# likes. Everything else in the first two bytes, version and routing among it, has to be zero: the kernel takes some.
_CHECKSUM, _KEY, _SEQUENCE = 0x8000, 0x2000, 0x1000
_FLAGS = 0xFFFF ^ _SEQUENCE
_ETHERTYPES = (0x0800, 0x86DD)

_FROM = "from-"
_IPV4 = ADDRESS[4]
_DESTINATION, _SOURCE = packet("ip", "daddr"), packet("ip", "saddr")
_LATER_FRAGMENT = match(bits(packet("ip", "frag-off"), 0x1FFF), 0, "!=")


@dataclass(frozen=True, slots=True)
class Entrance:
    """
    One way in: packets of *protocol* to *local* (in GRE: with this *key* and *checksum*), from *senders*.

    *name* is the tunnel's; what gets in is counted by it and by sender. No *senders* means anybody. Entrances of one
    name, as there are while a tunnel is replaced, share their senders.
    """

    name: str
    local: Ip
    protocol: int
    senders: tuple[Network, ...]
    key: int | None = None
    checksum: bool = False


def counted_in(tunnel: str, prefixlen: int = 32) -> str:
    """The name of the set (for anybody: of the counter) that counts what comes in by *tunnel*."""
    # No link can have a slash in its name, so no other tunnel's set is called so. An asterisk at the end of a name is
    # nftables' own language.
    tunnel = tunnel.replace("*", "/any")
    return f"{_FROM}{tunnel}" if prefixlen == 32 else f"{_FROM}{tunnel}/{prefixlen}"


def tunnel_counted_in(name: str) -> str:
    """Which tunnel a set or counter called *name* counts; empty if it counts something else."""
    found = re.fullmatch(rf"{_FROM}(.*?)(/\d+)?", name)
    return found.group(1).replace("/any", "*") if found else ""


def sets(entrances: tuple[Entrance, ...]) -> Iterator[tuple[str, FilterSet]]:
    """The sets that `accepting` and `chains` ask."""
    by_tunnel: dict[str, set[Network]] = {}
    for entrance in entrances:
        by_tunnel.setdefault(entrance.name, set()).update(entrance.senders)
    for name, senders in by_tunnel.items():
        for prefixlen, elements in sorted(networks_of(senders).items()):
            yield counted_in(name, prefixlen), hashed((_IPV4,), elements, counted=True)
    everybody = {network for senders in by_tunnel.values() for network in senders}
    for prefixlen, elements in sorted(networks_of(everybody).items()):
        yield _senders(prefixlen), hashed((_IPV4,), elements)
    yield "locals", hashed((_IPV4,), {element(entrance.local) for entrance in entrances})
    by_gre: dict[int, set[str]] = {}
    for entrance in entrances:
        for network in entrance.senders if entrance.protocol == GRE else ():
            pair = joined(str(entrance.local), str(network.network_address))
            by_gre.setdefault(network.prefixlen, set()).add(pair)
    for prefixlen, elements in sorted(by_gre.items()):
        yield _gre_senders(prefixlen), hashed((_IPV4, _IPV4), elements)


def counters(entrances: tuple[Entrance, ...]) -> Iterator[str]:
    """The named counters that `accepting` uses: of the tunnels that are open to anybody."""
    yield from {counted_in(entrance.name) for entrance in entrances if not entrance.senders}


def accepting(entrances: tuple[Entrance, ...]) -> Iterator[str]:
    """
    The rules that let in what is good.

    What comes out of a tunnel of ours is not asked here: wrapped in a wrapped packet, anything would get in.
    """
    for entrance in entrances:
        if entrance.protocol != GRE:
            arrives = (match(meta("l4proto"), entrance.protocol), NOT_OURS, match(_DESTINATION, str(entrance.local)))
            yield from (rule(*arrives, *sender, ACCEPT) for sender in _sent_by(entrance))
    if any(entrance.protocol == GRE for entrance in entrances):
        yield rule(match(meta("l4proto"), GRE), NOT_OURS, goto("gre_header"))


def refusing(entrances: tuple[Entrance, ...]) -> Iterator[str]:
    """
    The short way out for strangers: an address and a protocol for which everybody who is declared at all is declared.

    Asked after all that let something in, so whoever sends there and was not let in cannot be known.
    """
    for (local, protocol), senders in _of_everybody(entrances).items():
        if protocol != GRE and senders:
            arrives = (match(meta("l4proto"), protocol), NOT_OURS, match(_DESTINATION, str(local)))
            yield rule(*arrives, *refuse(Reason.SOURCE))


def _of_everybody(entrances: tuple[Entrance, ...]) -> dict[tuple[Ip, int], set[Network]]:
    """Addresses and protocols, with who is declared for them, where nobody is declared for anything else."""
    everybody = {network for entrance in entrances for network in entrance.senders}
    declared: dict[tuple[Ip, int], set[Network]] = {}
    for entrance in entrances:
        declared.setdefault((entrance.local, entrance.protocol), set()).update(entrance.senders)
    open_ = {(entrance.local, entrance.protocol) for entrance in entrances if not entrance.senders}
    return {place: senders for place, senders in declared.items() if senders >= everybody and place not in open_}


def chains(entrances: tuple[Entrance, ...]) -> Iterator[tuple[str, Chain]]:
    """
    What GRE tunnels take, and who was not let in.

    ``gre_header`` is a chain of its own also because nftables 1.0.6 aborts on rules that ask for GRE and then for its
    header.
    """
    if any(entrance.protocol == GRE for entrance in entrances):
        yield "gre_header", Chain(tuple(_gre(entrances)))
    refused = [rule(known, goto("sender_refused")) for known in asked_for(entrances)]
    refused += [_wrong_header(entrance) for entrance in entrances if entrance.protocol == GRE and not entrance.senders]
    yield "outer_refused", Chain((*refused, rule(*refuse(Reason.SOURCE))))
    wrong = [line for entrance in entrances for line in _wrong_headers(entrance)]
    yield "sender_refused", Chain((*dict.fromkeys(wrong), rule(*refuse(Reason.PROTOCOL))))


def asked_for(entrances: tuple[Entrance, ...]) -> Iterator[Expression]:
    """The ways of asking, without counting, whether the sender is one that is declared for any tunnel."""
    everybody = {network for entrance in entrances for network in entrance.senders}
    yield from (_masked(length, _senders(length)) for length in sorted(networks_of(everybody), reverse=True))


def _gre(everyone: tuple[Entrance, ...]) -> Iterator[str]:
    entrances = [entrance for entrance in everyone if entrance.protocol == GRE]
    for entrance in entrances:
        for sender in _sent_by(entrance):
            for header in _headers(entrance):
                yield rule(match(_DESTINATION, str(entrance.local)), *header, *sender, ACCEPT)
    for (local, protocol), senders in _of_everybody(everyone).items():
        if protocol == GRE and senders:  # the short way out for strangers
            known = (_masked(length, _senders(length), "!=") for length in sorted(networks_of(senders), reverse=True))
            yield rule(match(_DESTINATION, str(local)), *known, *refuse(Reason.SOURCE))
    for entrance in entrances:
        # A later fragment has no GRE header to be asked for, and is worth nothing without the first.
        for sender in _sent_by(entrance):
            yield rule(match(_DESTINATION, str(entrance.local)), _LATER_FRAGMENT, *sender, ACCEPT)
    yield rule(match(_DESTINATION, "@locals"), goto("outer_refused"))


def _wrong_headers(entrance: Entrance) -> Iterator[str]:
    """A sender that is declared for GRE at this address, and still was not let in."""
    if entrance.protocol != GRE:
        return
    if not entrance.senders:
        yield _wrong_header(entrance)
    for length in sorted(networks_of(entrance.senders), reverse=True):
        source = _SOURCE if length == 32 else bits(_SOURCE, _mask(length))
        pair = match(concat(_DESTINATION, source), f"@{_gre_senders(length)}")
        yield rule(match(meta("l4proto"), GRE), pair, *refuse(Reason.GRE_HEADER))


def _wrong_header(entrance: Entrance) -> str:
    """Where anybody may send GRE, whoever was not let in has sent another header."""
    arrives = (match(meta("l4proto"), GRE), match(_DESTINATION, str(entrance.local)))
    return rule(*arrives, *refuse(Reason.GRE_HEADER))


def _sent_by(entrance: Entrance) -> Iterator[tuple[Expression, ...]]:
    """The ways of asking for the sender; asking counts the packet."""
    if not entrance.senders:
        yield (count(counted_in(entrance.name)),)
    for length in sorted(networks_of(entrance.senders), reverse=True):
        yield (_masked(length, counted_in(entrance.name, length)),)


def _headers(entrance: Entrance) -> Iterator[tuple[Expression, ...]]:
    """The GRE headers that a tunnel takes: one for each version of IP inside."""
    flags = _CHECKSUM * entrance.checksum | _KEY * (entrance.key is not None)
    for ethertype in _ETHERTYPES:
        # The first 16 bits of a transport header are called sport and the next dport, whatever they are. Not both in
        # one: nftables 1.0.6 aborts when it reads that back.
        first = match(bits(packet("th", "sport"), _FLAGS), flags), match(packet("th", "dport"), ethertype)
        if entrance.key is None:
            yield first
        else:
            yield *first, match(raw(64 if entrance.checksum else 32, 32), entrance.key)


def _masked(length: int, name: str, op: str = "==") -> Expression:
    return match(_SOURCE if length == 32 else bits(_SOURCE, _mask(length)), f"@{name}", op)


def _mask(length: int) -> str:
    return str(IPv4Network(f"0.0.0.0/{length}").netmask)


def _senders(length: int) -> str:
    return f"senders{length}"


def _gre_senders(length: int) -> str:
    return f"gre_senders{length}"
