"""What the guard has to let in, said in front of what the host holds, and the step that makes it so. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from dsr_agent.guard.inner import Target
from dsr_agent.guard.outer import Entrance, counted_in, tunnel_counted_in
from dsr_agent.guard.ruleset import Request, ruleset
from dsr_agent.guard.transaction import commands, removal
from dsr_agent.reconcile.resolve import TUNNEL_ADDRESS, Wanted, stand_in_name
from dsr_agent.state.actions import Action, HoldGuard, Problem, RemoveGuard, WriteGuard
from dsr_agent.state.errors import NotPermitted
from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import GUARD, AddressKey, Desired, Ip, Link, Network, Observed
from dsr_agent.state.table import Table
from dsr_agent.state.why import Why
from dsr_agent.tunnels import CARRIERS, carrier

_PROTOCOL_OF_KIND = {means.kind: means.protocol for means in CARRIERS.values()}
_OWN = frozenset({"own4", "own6"})
_TCP_AND_IP = {4: 40, 6: 60}
_ETHERNET = 1500


def steps(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[Action]:
    """
    What is to be done about the guard.

    Without a file's tunnels there is nothing to guard. Whoever may not see the guard cannot say that it is amiss.
    """
    there = observed.guard.table
    if isinstance(observed.guard.unavailable, NotPermitted) and not observed.guard.can_hold:
        return
    if desired.guard is None or not (wanted.carried or wanted.waiting):
        if there is not None:
            yield RemoveGuard(removal(), Why.UNWANTED, tuple(link.key for link in _doomed(wanted, observed)))
        return
    if observed.guard.unavailable and not desired.guard.required:
        return
    table = wanted_table(desired, wanted, observed)
    if table != there:
        yield WriteGuard(table, commands(table, there), _words(table, there), _why(table, there))
    elif observed.guard.can_hold:
        yield HoldGuard(commands(table, None))


def warnings(desired: Desired, observed: Observed) -> Iterator[Problem]:
    """What is wrong with the guard, where the file goes on without it."""
    if desired.guard and observed.guard.unavailable and not desired.guard.required:
        yield Problem(GUARD, observed.guard.unavailable)


def wanted_table(desired: Desired, wanted: Wanted, observed: Observed) -> Table:
    """
    The table for the tunnels of *desired*.

    A link of ours that is about to be replaced keeps its entrance until it is gone: what a balancer sends in the form
    declared until now is not lost while the new one is made beside it.
    """
    assert desired.guard is not None
    entrances = (*_entrances(wanted, observed), *_going(wanted, observed))
    links = tuple(_links(wanted))
    return _table(_ById(desired), entrances, links, wanted.own, tuple(told_mss(desired, wanted, observed)))


@dataclass(frozen=True, slots=True, eq=False)
class _ById:
    """The file, as a key: the same object means the same 10,000 VIPs, and comparing them would cost as much again."""

    desired: Desired

    def __hash__(self) -> int:
        return id(self.desired)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.desired is self.desired


@lru_cache(maxsize=2)
def _table(
    of: _ById,
    entrances: tuple[Entrance, ...],
    links: tuple[tuple[str, tuple[str, ...]], ...],
    own: frozenset[AddressKey],
    mss: tuple[tuple[int, int], ...],
) -> Table:
    """The table; kept, because it is asked for in every pass and seldom another one (100 ms for 10,000 VIPs)."""
    desired = of.desired
    services = desired.guard is not None and desired.guard.services
    vips = tuple(_targets(desired, dict(links), services=services))
    names = frozenset(name for _, several in links for name in several)
    return ruleset(Request(entrances, vips, frozenset(_own(own)), dict(mss), names))


def _links(wanted: Wanted) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each tunnel's name, and the names that its link has or will have."""
    for item in wanted.carried:
        yield item.tunnel.name, (item.link.name, stand_in_name(item.link.name))
    for name, tunnel in wanted.waiting.items():
        yield tunnel.name, (name,)


def _targets(desired: Desired, links: Mapping[str, tuple[str, ...]], *, services: bool) -> Iterator[Target]:
    """The VIPs; one that is not for all tunnels comes with the links that it is for."""
    every = set(desired.tunnels)
    for vip in desired.vips.values():
        bound = len(vip.tunnels) != len(every) or set(vip.tunnels) != every
        names = tuple(name for tunnel in vip.tunnels for name in links.get(tunnel, ())) if bound else ()
        if not bound or names:
            yield Target(vip.ip, vip.services if services else (), names)


def _own(keys: Iterable[AddressKey]) -> Iterator[Ip]:
    """This host's addresses, and the broadcast addresses of its networks, which are nobody's."""
    yield TUNNEL_ADDRESS
    for key in keys:
        yield key.ip
        if isinstance(key.ip, IPv4Address) and key.prefixlen < 31:
            yield IPv4Network((key.ip, key.prefixlen), strict=False).broadcast_address


def _entrances(wanted: Wanted, observed: Observed) -> Iterator[Entrance]:
    for item in wanted.carried:
        yield from _entrance(item.link, item.tunnel.name, item.tunnel.load_balancers)
    for name, tunnel in wanted.waiting.items():
        yield from _entrance(observed.links[name], tunnel.name, tunnel.load_balancers)


def _entrance(link: Link, name: str, senders: tuple[Network, ...]) -> Iterator[Entrance]:
    """What *link* takes, if it is of a kind that we make and looks for one address."""
    outer, protocol = link.outer, _PROTOCOL_OF_KIND.get(link.kind)
    if outer and protocol and isinstance(outer.local, IPv4Address):
        yield Entrance(name, outer.local, protocol, senders, outer.key, outer.checksum)


def _going(wanted: Wanted, observed: Observed) -> Iterator[Entrance]:
    """
    The entrances of links that are going, for whom the table that is there lets in by them.

    Of one that was adopted under its own name nobody knows any more which tunnel it was, so it may be any of them.
    """
    there = observed.guard.table
    if there is None:
        return
    tunnels = {tunnel_counted_in(name) for name in (*there.sets, *there.counters)} - {""}
    for link in _doomed(wanted, observed):
        for tunnel in (link.name,) if link.name in tunnels else sorted(tunnels):
            senders = tuple(sorted(_senders(tunnel, there), key=str))
            if senders or (tunnel == link.name and counted_in(tunnel) in there.counters):
                yield from _entrance(link, tunnel, senders)


def _doomed(wanted: Wanted, observed: Observed) -> Iterator[Link]:
    """Links of ours that are there now and will be gone, or be something else."""
    staying = {item.link.name: item.link.outer for item in wanted.carried}
    for link in observed.links.values():
        if owns_link(link) and link.name not in wanted.waiting and staying.get(link.name) != link.outer:
            yield link


def _senders(tunnel: str, there: Table) -> Iterator[Network]:
    for prefixlen in range(33):
        found = there.sets.get(counted_in(tunnel, prefixlen))
        for element in found.elements if found else ():
            yield IPv4Network((json.loads(element), prefixlen))


def told_mss(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[tuple[int, int]]:
    """
    The largest TCP segment by IP version: what is left of a packet when its balancer has wrapped it.

    The smallest of all tunnels' counts, because a balancer may use any; the way to the balancer is taken to be as wide
    as the link on which its packets arrive.
    """
    assert desired.guard is not None
    said = desired.guard.mss
    if said == 0:
        return
    tunnels = [item.tunnel for item in wanted.carried] + list(wanted.waiting.values())
    overhead = max(carrier(tunnel).overhead(tunnel) for tunnel in tunnels)
    locals_ = {entrance.local for entrance in _entrances(wanted, observed)}
    arrivals = [key.link for key in wanted.own if key.ip in locals_]
    mtus = [observed.links[name].mtu for name in arrivals if name in observed.links and observed.links[name].mtu]
    left = min(mtus, default=_ETHERNET) - overhead
    for version in desired.ip_versions:
        yield version, said or left - _TCP_AND_IP[version]


# --- words ------------------------------------------------------------------------------------------------------------


def _why(table: Table, there: Table | None) -> Why:
    if there is None:
        return Why.MISSING
    # Addresses come and go, with DHCP and with containers: that is nobody's attack on the guard.
    others = {name: found for name, found in there.sets.items() if name not in _OWN}
    same = others == {name: found for name, found in table.sets.items() if name not in _OWN}
    rest = replace(there, sets={}) == replace(table, sets={})
    return Why.FOLLOWS if same and rest and there.sets.keys() == table.sets.keys() else Why.CHANGED


def _words(table: Table, there: Table | None) -> str:
    if there is None:
        return "write the guard: only declared load balancers get in, and only to VIPs"
    added = sum(len(found.elements - _elements(there, name)) for name, found in table.sets.items())
    gone = sum(len(found.elements - _elements(table, name)) for name, found in there.sets.items())
    if set(table.sets) == set(there.sets) and table.chains == there.chains and table.counters == there.counters:
        counts = [
            f"{count} address{'es' * (count != 1)} {word}" for count, word in ((added, "in"), (gone, "out")) if count
        ]
        return f"change the guard in place: {', '.join(counts) or 'what does not belong there out'}"
    return "write the guard's rules again"


def _elements(table: Table, name: str) -> frozenset[str]:
    return table.sets[name].elements if name in table.sets else frozenset()
