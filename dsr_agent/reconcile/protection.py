"""What the guard has to let in, said in front of what the host holds, and the step that makes it so. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from typing import NamedTuple

from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.marked import Marked, Unwrapped, is_arrivals
from dsr_agent.guard.outer import Entrance, counted_in, senders_at, tunnel_counted_in
from dsr_agent.guard.ruleset import Request, ruleset, unguarded
from dsr_agent.guard.transaction import commands, removal
from dsr_agent.reconcile.links import worker
from dsr_agent.reconcile.resolve import Wanted
from dsr_agent.state.actions import Action, Problem
from dsr_agent.state.errors import NotPermitted, Unsupported
from dsr_agent.state.guard_actions import HoldGuard, RemoveGuard, WriteGuard
from dsr_agent.state.marks import TUNNEL_ADDRESS, owns_link, stand_in_name
from dsr_agent.state.model import GUARD, AddressKey, Desired, Ip, Link, Network, Observed, Tunnel, TunnelKey
from dsr_agent.state.table import FilterSet, Table
from dsr_agent.state.vrfs import KIND as VRF
from dsr_agent.state.why import Why
from dsr_agent.tunnels import PROTOCOLS_OF_KIND, carrier

_UDP = 17
_OWN = frozenset({"own4", "own6"})
_TCP_AND_IP = {4: 40, 6: 60}
_ETHERNET, _WIDEST = 1500, 9216


def steps(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[Action]:
    """
    What is to be done about the guard.

    Without a file's tunnels there is nothing to guard. Whoever may not see the guard cannot say that it is amiss.
    Marked packets (``dscp``) need rules of the table, guard or no guard.
    """
    there = observed.guard.table
    if isinstance(observed.guard.unavailable, NotPermitted) and not observed.guard.can_hold:
        return
    unwrapped = _unwrapped(desired, wanted)
    linked = bool(wanted.carried or wanted.waiting)
    going = tuple(link.key for link in _doomed(wanted, observed))
    if not unwrapped.marked and (desired.guard is None or not (linked or unwrapped)):
        if there is not None:
            yield RemoveGuard(removal(), Why.UNWANTED, going)
        return
    if observed.guard.unavailable and not (desired.guard and desired.guard.required and linked):
        return
    table = wanted_table(desired, wanted, observed)
    if table != there:
        after = going if there is not None and desired.guard is None else ()
        yield WriteGuard(table, commands(table, there), _words(table, there), _why(table, there), after)
    elif observed.guard.can_hold:
        yield HoldGuard(commands(table, None))


def warnings(desired: Desired, observed: Observed) -> Iterator[Problem]:
    """What is wrong with the guard, where the file goes on without it."""
    if desired.guard and observed.guard.unavailable and not desired.guard.required:
        yield Problem(GUARD, observed.guard.unavailable)


def problems(wanted: Wanted, observed: Observed) -> Iterator[Problem]:
    """The tunnels that the table is a part of, where there can be none; who only looks may not know."""
    unavailable = observed.guard.unavailable
    for name in wanted.bare.marked_at if unavailable else ():
        assert unavailable
        if not isinstance(unavailable, NotPermitted):
            text = "packets are known by their code point (DSCP) only with nftables, and it cannot be had"
            yield Problem(TunnelKey(name), Unsupported(f"{text} ({unavailable.problem})"))
        elif observed.guard.can_hold:
            yield Problem(TunnelKey(name), NotPermitted("its rules cannot be seen or changed", unavailable.remedy))


def wanted_table(desired: Desired, wanted: Wanted, observed: Observed) -> Table:
    """
    The table for the tunnels of *desired*.

    A link of ours that is about to be replaced keeps its entrance until it is gone: what a balancer sends in the form
    declared until now is not lost while the new one is made beside it.
    """
    if desired.guard is None:
        return unguarded(_unwrapped(desired, wanted), vrfs=_vrfs(observed))
    entrances = (*_entrances(wanted, observed), *_going(wanted, observed), *_open_still(wanted, observed))
    links = tuple(_links(desired, wanted, observed))
    mss = tuple(told_mss(desired, wanted, observed))
    in_vrfs = frozenset(name for name, tunnel in _carrying(wanted) if tunnel.vrf)
    shut = tuple(sorted(set(_shut(entrances, observed)), key=str))
    places = _Places(links, wanted.own, in_vrfs, _vrfs(observed), _places(wanted), shut)
    return _table(_ById(desired), entrances, places, mss)


def _vrfs(observed: Observed) -> bool:
    return any(link.kind == VRF for link in observed.links.values())


class _Places(NamedTuple):
    """What the table depends on beside the file and the ways in; see `ruleset.Request`."""

    links: tuple[tuple[str, tuple[str, ...]], ...]
    own: frozenset[AddressKey]
    in_vrfs: frozenset[str]
    vrfs: bool
    bare: Unwrapped
    shut: tuple[tuple[Ip, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _ById:
    """The file, as a key: the same object means the same 10,000 VIPs, and comparing them would cost as much again."""

    desired: Desired

    def __hash__(self) -> int:
        return id(self.desired)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.desired is self.desired


@lru_cache(maxsize=2)
def _table(of: _ById, entrances: tuple[Entrance, ...], places: _Places, mss: tuple[tuple[int, int], ...]) -> Table:
    """The table; kept, because it is asked for in every pass and seldom another one (100 ms for 10,000 VIPs)."""
    desired = of.desired
    services = desired.guard is not None and desired.guard.services
    vips = tuple(_targets(desired, dict(places.links), services=services))
    names = frozenset(name for _, several in places.links for name in several)
    unwrapped = _of_vips(desired, places.bare)
    nobodys = frozenset((*_own(places.own), *desired.key_of_ip))
    more = places.in_vrfs, places.vrfs, places.shut
    request = Request(entrances, vips, nobodys, dict(mss), names, unwrapped, *more)
    return ruleset(request)


def _links(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[tuple[str, tuple[str, ...]]]:
    """
    Each tunnel's name, and the names that its link has or will have.

    One by which the link does its work for the moment matters to VIPs that are for that tunnel; for all others, the
    table had to be written twice for nothing.
    """
    for item in wanted.carried:
        there = worker(item, observed.links) if desired.some_are_bound else None
        names = (item.link.name, stand_in_name(item.link.name), *([there.name] if there else []))
        yield item.tunnel.name, tuple(dict.fromkeys(names))
    for name, tunnel in wanted.waiting:
        yield tunnel.name, (name,)


def _carrying(wanted: Wanted) -> Iterator[tuple[str, Tunnel]]:
    """The names that links have or will have, each with a tunnel that it carries."""
    for item in wanted.carried:
        yield from ((name, item.tunnel) for name in (item.link.name, stand_in_name(item.link.name)))
    yield from wanted.waiting


def _targets(desired: Desired, links: Mapping[str, tuple[str, ...]], *, services: bool) -> Iterator[GuardedVip]:
    """The VIPs; one that is not for all tunnels comes with the links that it is for."""
    every = frozenset(desired.linked)
    for vip in desired.vips.values() if every else ():
        bound = not every.issubset(vip.tunnels)
        names = tuple(name for tunnel in vip.tunnels for name in links.get(tunnel, ())) if bound else ()
        if not bound or names:
            yield GuardedVip(vip.ip, vip.services if services else (), names)


def _unwrapped(desired: Desired, wanted: Wanted) -> Unwrapped:
    return _of_vips(desired, _places(wanted))


def _places(wanted: Wanted) -> Unwrapped:
    """What of it depends on the host's addresses."""
    ports = ((item.link.outer.local, item.tunnel.port) for item in wanted.carried if item.link.outer)
    return Unwrapped(
        arrivals=tuple(wanted.bare.marked_at.items()), ports=tuple((ip, port) for ip, port in ports if ip and port)
    )


def _of_vips(desired: Desired, bare: Unwrapped) -> Unwrapped:
    """What comes without an outer header. There are 63 code points at most, but any number of plain VIPs."""
    services = desired.guard is not None and desired.guard.services
    at = {name for name, _ in bare.arrivals}
    plain = {name for name, tunnel in desired.tunnels.items() if tunnel.encapsulation == "l2"}
    if not at and not plain:
        return Unwrapped()
    marked = tuple(
        Marked(name, vip.dscp, vip.ip, vip.services if services else ())
        for vip in desired.vips.values()
        if vip.dscp is not None
        for name in vip.tunnels
        if name in at
    )
    as_they_are = tuple(vip.ip for vip in desired.vips.values() if not plain.isdisjoint(vip.tunnels))
    return Unwrapped(marked, bare.arrivals, as_they_are, bare.ports)


def _own(keys: Iterable[AddressKey]) -> Iterator[Ip]:
    """This host's addresses, and the broadcast addresses of its networks, which are nobody's."""
    yield TUNNEL_ADDRESS
    for key in keys:
        yield key.ip
        if isinstance(key.ip, IPv4Address) and key.prefixlen < 31:
            yield IPv4Network((key.ip, key.prefixlen), strict=False).broadcast_address
        if isinstance(key.ip, IPv4Address):  # a sit link gives itself one made of its local address (RFC 4291, 2.5.5.1)
            yield IPv6Address(int(key.ip))


def _entrances(wanted: Wanted, observed: Observed) -> Iterator[Entrance]:
    for item in wanted.carried:
        yield from _of_tunnel(item.tunnel, item.link)
    for name, tunnel in wanted.waiting:
        yield from _of_tunnel(tunnel, observed.links[name])


def _of_tunnel(tunnel: Tunnel, link: Link) -> Iterator[Entrance]:
    """The ways in of a tunnel of the file."""
    if tunnel.port is None:
        yield from _of_link(link, tunnel.name, tunnel.load_balancers)
    elif link.outer and link.outer.local:
        senders, direct = tunnel.load_balancers, tunnel.encapsulation == "fou"
        yield Entrance(tunnel.name, link.outer.local, _UDP, senders, port=tunnel.port, direct=direct)


def _of_link(link: Link, name: str, senders: tuple[Network, ...]) -> Iterator[Entrance]:
    """What *link* takes, if it is of a kind that we make and looks for one address."""
    outer = link.outer
    if outer and outer.local:
        for protocol in PROTOCOLS_OF_KIND.get(link.kind, ()):
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
        local = link.outer and link.outer.local
        for tunnel in (link.name,) if link.name in tunnels else sorted(tunnels):
            # A tunnel of that name may be of the other version of IP by now.
            found = (network for network in _senders(tunnel, there) if local and network.version == local.version)
            senders = tuple(sorted(found, key=str))
            if senders or (tunnel == link.name and counted_in(tunnel) in there.counters):
                yield from _of_link(link, tunnel, senders)


def _shut(entrances: Iterable[Entrance], observed: Observed) -> Iterator[tuple[Ip, int]]:
    """
    The UDP ports at the tunnels' addresses that are open, and no entrance: somebody else's, and ours of before.

    What the kernel takes out of UDP there it hands to our links without asking the packet filter once more
    (``fou_udp_recv`` resubmits it), so a stranger's packet would come out of a tunnel.
    """
    known = {(entrance.local, entrance.port) for entrance in entrances}
    for local in sorted({entrance.local for entrance in entrances}, key=str):
        for port in observed.ports:
            here = port.key.version == local.version and port.key.local in (None, local)
            if here and (local, port.key.number) not in known:
                yield local, port.key.number


def _open_still(wanted: Wanted, observed: Observed) -> Iterator[Entrance]:
    """
    The UDP ports that the file does not know any more, for whom the table that is there lets in by them.

    One stays open until its successor is, for which the kernel may have no place: behind it is the link all the same.
    """
    there = observed.guard.table
    known = {item.port for item in wanted.carried}
    awaited = {(tunnel.port, tunnel.version) for _, tunnel in wanted.waiting}
    ports = [port.key for port in observed.ports if port.ours and port.key not in known]
    for key in sorted(ports, key=str):
        if there is None or key.local is None or (key.number, key.version) in awaited:
            continue
        allowed = set(senders_at(there, key.local, key.number))
        for tunnel in sorted({tunnel_counted_in(name) for name in there.sets} - {""}):
            senders = tuple(sorted(allowed.intersection(_senders(tunnel, there)), key=str))
            for direct in (False, True) if senders else ():
                yield Entrance(tunnel, key.local, _UDP, senders, port=key.number, direct=direct)


def _doomed(wanted: Wanted, observed: Observed) -> Iterator[Link]:
    """Links of ours that are there now and will be gone, or be something else."""
    staying = {item.link.name: (item.link.kind, item.link.outer) for item in wanted.carried}
    for link in observed.links.values():
        if owns_link(link) and link.name not in wanted.left_alone and staying.get(link.name) != (link.kind, link.outer):
            yield link


def _senders(tunnel: str, there: Table) -> Iterator[Network]:
    for version, longest in ((4, 32), (6, 128)):
        for prefixlen in range(longest + 1):
            found = there.sets.get(counted_in(tunnel, prefixlen, version))
            for element in found.elements if found else ():
                yield ip_network((json.loads(element), prefixlen))


def told_mss(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[tuple[int, int]]:
    """
    The largest TCP segment by IP version: what is left of a packet when its balancer has wrapped it.

    The smallest of all tunnels' counts, because a balancer may use any; the way to the balancer is taken to be as wide
    as the link that has their address; ``lo`` or the link of a VRF (some 65,000) are nobody's way.
    """
    assert desired.guard is not None
    said = desired.guard.mss
    if said == 0 or not (wanted.carried or wanted.waiting):  # nothing is wrapped
        return
    tunnels = [item.tunnel for item in wanted.carried] + [tunnel for _, tunnel in wanted.waiting]
    overhead = max(carrier(tunnel).overhead(tunnel) for tunnel in tunnels)
    locals_ = {entrance.local for entrance in _entrances(wanted, observed)}
    arrivals = [key.link for key in wanted.own if key.ip in locals_]
    mtus = [observed.links[name].mtu for name in arrivals if name in observed.links]
    left = min((mtu for mtu in mtus if 0 < mtu <= _WIDEST), default=_ETHERNET) - overhead
    for version in desired.ip_versions:
        yield version, said or left - _TCP_AND_IP[version]


# --- words ------------------------------------------------------------------------------------------------------------


def _why(table: Table, there: Table | None) -> Why:
    if there is None:
        return Why.MISSING
    # Addresses come and go, with DHCP and with containers: that is nobody's attack on the guard.
    same = _others(there) == _others(table)
    rest = replace(there, sets={}) == replace(table, sets={})
    return Why.FOLLOWS if same and rest and there.sets.keys() == table.sets.keys() else Why.CHANGED


def _others(table: Table) -> dict[str, FilterSet]:
    return {name: found for name, found in table.sets.items() if name not in _OWN and not is_arrivals(name)}


def _words(table: Table, there: Table | None) -> str:
    if there is None and "entrance" not in table.chains:
        return "write the rules that give marked packets (DSCP) their VIPs"
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
