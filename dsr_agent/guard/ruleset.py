"""
Which packets may enter a tunnel, which may come out of one, and what each of the others is counted as. Pure.

Every packet meets the chain ``entrance`` before connection tracking, an encapsulated one twice: as it arrives, and
again as it comes out of its tunnel. What is good is accepted there by the first rule that matches; only what is not
goes on to be told apart. Tunnels are known by the group that all links of ours carry, so that one that is made again
is guarded from its first packet on.

The order and the form of the rules are chosen by counting instructions (``tests/bench/guard.py``): one rule that
checks everything is cheaper than several, a hash table whose size is told beforehand cheaper than one that grows,
a masked address in a hash table cheaper than an interval, and none of them minds how many elements there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dsr_agent.guard import inner, marked, outer, selftest, vrfs
from dsr_agent.guard.expressions import ENCAPSULATIONS, OURS, bits, goto, match, meta, packet, refuse, rule
from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.sets import of_addresses
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip
from dsr_agent.state.table import Chain, FilterSet, Table

# Before connection tracking (-200) and what host firewalls call raw (-300); after fragments were put together, where
# connection tracking has that done (-400).
PRIORITY = -310
_MANGLE = -150
_SYN_ACK = 0x12


@dataclass(frozen=True, slots=True)
class Request:
    """
    What the guard is to let in.

    *own* are the host's own addresses, *links* what the tunnels' links are called, and *in_vrfs* those of them that
    belong to a VRF. *vrfs*: there is one on this host.
    *shut* are UDP ports behind which the kernel hands to tunnels what nobody declared.
    *mss* is the largest TCP segment that clients are told of, by IP version. *unwrapped* is what comes without an outer
    header.
    """

    entrances: tuple[Entrance, ...]
    vips: tuple[GuardedVip, ...] = ()
    own: frozenset[Ip] = frozenset()
    mss: Mapping[int, int] = field(default_factory=dict)
    links: frozenset[str] = frozenset()
    unwrapped: marked.Unwrapped = field(default_factory=marked.Unwrapped)
    in_vrfs: frozenset[str] = frozenset()
    vrfs: bool = False
    shut: outer.Doors = ()


def unguarded(unwrapped: marked.Unwrapped, *, vrfs: bool = False) -> Table:
    """The table of a host that wants no guard: marked packets get their VIP, whoever sent them."""
    chains = dict(marked.chains(unwrapped, guarded=False, vrfs=vrfs))
    return Table(dict(marked.sets(unwrapped, guarded=False)), frozenset(), chains)


def ruleset(request: Request) -> Table:
    """The table that lets in what *request* says, and nothing else."""
    entrances = tuple(dict.fromkeys(request.entrances))
    sets: dict[str, FilterSet] = dict(outer.sets(entrances, request.shut))
    sets |= inner.sets(request.vips, request.own)
    sets |= selftest.sets(request.links)
    sets |= marked.sets(request.unwrapped, guarded=True)
    sets |= {f"answering{version}": of_addresses(version, (vip.ip for vip in request.vips)) for version in request.mss}
    chains = dict(outer.chains(entrances, request.shut)) | dict(inner.chains(request.vips))
    chains[selftest.CHAIN] = selftest.chain(entrances, vrfs=request.vrfs)
    chains["entrance"] = Chain(tuple(_entrance(entrances, request)), "prerouting", PRIORITY)
    chains["forward"] = Chain(tuple(_forward(request)), "forward", PRIORITY)
    chains |= marked.chains(request.unwrapped, guarded=True, vrfs=request.vrfs)
    if request.mss:
        chains["answers"] = Chain(tuple(_answers(request.mss)), "output", _MANGLE)
    return Table(sets, frozenset([*map(str, RefusalReason), *outer.counters(entrances)]), chains)


def _entrance(entrances: tuple[Entrance, ...], request: Request) -> Iterator[str]:
    yield selftest.entrance()
    if request.vrfs:
        yield from vrfs.seen_before()
    first, *more = inner.accepting(request.vips)
    yield first
    yield from outer.accepting(entrances, request.shut)
    yield from outer.refusing(entrances)
    yield from more
    yield inner.refused()
    encapsulated = match(meta("l4proto"), {"set": ENCAPSULATIONS})
    for version in outer.versions_of(entrances, request.shut):
        local = match(packet("ip" if version == 4 else "ip6", "daddr"), f"@{outer.locals_of(version)}")
        yield rule(encapsulated, local, goto("outer_refused"))


def _forward(request: Request) -> Iterator[str]:
    yield rule(OURS, *refuse(RefusalReason.FORWARD))
    yield rule(match(meta("oifgroup"), LINK_GROUP), *refuse(RefusalReason.FORWARD))
    yield from vrfs.forwarding(request.in_vrfs)
    yield from marked.forwarding(request.unwrapped)


def _answers(mss: Mapping[int, int]) -> Iterator[str]:
    """
    Tell clients of segments that still fit when the balancer has wrapped them. The kernel only ever lowers the option.

    Source: ``net/netfilter/nft_exthdr.c`` (nft_exthdr_tcp_set_eval).
    """
    for version, size in mss.items():
        yield rule(
            match(bits(packet("tcp", "flags"), _SYN_ACK), _SYN_ACK),
            match(packet("ip" if version == 4 else "ip6", "saddr"), f"@answering{version}"),
            {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": size}},
        )
