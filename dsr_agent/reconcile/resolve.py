"""
What the file leaves open, said in front of what the host holds.

``local = "auto"`` becomes an address, a tunnel becomes a link under the name it has or will have, the sysctls of that
link get their paths, and the links that share a segment with a VIP are found. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dsr_agent.reconcile import vrfs
from dsr_agent.reconcile.bare import EVERY_SEGMENT, Bare, resolve_bare
from dsr_agent.reconcile.link_sysctls import arp_sysctls, links_that_may_answer, tunnel_sysctls
from dsr_agent.reconcile.local import local_address
from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import DsrError, Undecided
from dsr_agent.state.local import LocalAddress
from dsr_agent.state.marks import (
    ADDRESS_PROTO,
    ADOPTED_ALIAS,
    ALIAS,
    LINK_GROUP,
    TUNNEL_ADDRESS,
    label_for,
    owns_address,
    owns_link,
    stand_in_name,
)
from dsr_agent.state.model import (
    Address,
    AddressKey,
    Desired,
    Ip,
    Link,
    Observed,
    Outer,
    Sysctl,
    SysctlKey,
    Tunnel,
    TunnelKey,
)
from dsr_agent.state.outer import MODULE_OF_KIND, MODULE_OF_PORTS
from dsr_agent.state.ports import PortKey
from dsr_agent.tunnels import carrier, takes

SCOPE_HOST = 254


@dataclass(frozen=True, slots=True)
class Carried:
    """
    A tunnel of the file, and the link that carries it: as it should be, under the name that it has or will have.

    *shared*: an earlier tunnel of the file has the same link, because out of UDP all IP in IP is alike.
    """

    tunnel: Tunnel
    link: Link
    ipv6: bool = True
    """Whether this host has IPv6 at all."""
    inner_ipv6: bool = False
    """Whether some IPv6 VIP expects its requests from here."""
    shared: bool = False
    arrives_in: str = ""
    """The VRF in which its packets arrive; what comes out of them is in the tunnel's."""

    @property
    def port(self) -> PortKey | None:
        """The UDP port at which its packets arrive, if it has one."""
        if self.tunnel.port is None or self.link.outer is None:
            return None
        return PortKey(self.tunnel.port, self.tunnel.version, self.link.outer.local, self.arrives_in)

    def sysctls(self, name: str) -> tuple[Sysctl, ...]:
        """What is wanted of the link that carries this tunnel while it is called *name*."""
        return tunnel_sysctls(name, self.ipv6, self.inner_ipv6)


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What the tunnels of the file come to on this host.

    *waiting* are tunnels whose link is left as it is while something is awaited, with the name of that link. *own* are
    this host's addresses, those of its tunnels and VIPs left away.

    The VIPs' own addresses are not in *addresses*: they need no resolving (`Desired.addresses`).
    """

    carried: tuple[Carried, ...] = ()
    waiting: tuple[tuple[str, Tunnel], ...] = ()
    addresses: Mapping[AddressKey, Address] = field(default_factory=dict)
    sysctls: tuple[tuple[str, Sysctl], ...] = ()
    problems: tuple[Problem, ...] = ()
    own: frozenset[AddressKey] = frozenset()
    bare: Bare = field(default_factory=Bare)

    @property
    def links(self) -> tuple[Carried, ...]:
        """Every link once, with the first of the tunnels that it carries."""
        return tuple(item for item in self.carried if not item.shared)

    @property
    def left_alone(self) -> frozenset[str]:
        """The links that are left as they are."""
        return frozenset(name for name, _ in self.waiting)


def missing_modules(desired: Desired, observed: Observed) -> frozenset[str]:
    """The modules that *desired*'s tunnels need, and that the kernel has not got yet."""
    there = {link.kind for link in observed.links.values()}
    kinds = {kind for tunnel in desired.linked.values() for kind in _likely_kinds(tunnel, desired, observed)} - there
    ports = {MODULE_OF_PORTS for tunnel in desired.linked.values() if tunnel.port is not None}
    return frozenset({*(MODULE_OF_KIND[kind] for kind in kinds), *ports}) - observed.modules


def resolve(desired: Desired, observed: Observed) -> Wanted:
    """Say what *desired*'s tunnels come to in front of *observed*."""
    carried: list[Carried] = []
    waiting: list[tuple[str, Tunnel]] = []
    problems: list[Problem] = []
    taken = {*desired.linked, *map(stand_in_name, desired.linked)}  # names that mean something else
    theirs = {key: address for key, address in observed.addresses.items() if not owns_address(address)}
    for tunnel in desired.linked.values():
        current = _current(tunnel, desired, observed, taken - {tunnel.name}) or _companion(tunnel, desired, observed)
        current = current or _predecessor(tunnel, observed, taken)
        local, trouble = local_address(tunnel, desired, observed, theirs, current)
        if without := vrfs.lacking(tunnel, observed):
            local, trouble = None, without
        if trouble:
            problems.append(Problem(TunnelKey(tunnel.name), trouble))
        if local is None:
            waiting += [(current.name, tunnel)] if current else []
            continue
        link = _carry(tunnel, local, desired, observed, taken - {tunnel.name})
        others = _takers(link, tunnel, carried)
        if rival := next((item for item in others if item.tunnel.port == tunnel.port or not _in_one(item, link)), None):
            problems.append(Problem(TunnelKey(tunnel.name), _rivalry(rival, tunnel, link)))
            waiting += [(current.name, tunnel)] if current else []
            continue
        taken.add(link.name)
        shared, arrives_in = bool(others), vrfs.where_it_arrives(local, observed)
        carried.append(Carried(tunnel, others[0].link if others else link, shared=shared, arrives_in=arrives_in))
    carried = list(_with_ipv6(carried, desired, observed))
    addresses = {address.key: address for item in carried for address in [tunnel_address(item.link.name)]}
    sysctls = [(c.link.name, sysctl) for c in carried if not c.shared for sysctl in c.sysctls(c.link.name)]
    bare = resolve_bare(desired, observed, theirs)
    if desired.silence_arp:
        locals_: set[object] = {item.link.outer.local for item in carried if item.link.outer}
        locals_ |= {ip for ips in bare.marked_at.values() for ip in ips}
        asked = [] if EVERY_SEGMENT in bare.silent_on else links_that_may_answer(desired, observed, theirs, locals_)
        for name in dict.fromkeys((*bare.silent_on, *asked)):
            sysctls += [(name, sysctl) for sysctl in arp_sysctls(name)]
    problems += _ipv4_only(carried, desired, observed)
    return Wanted(
        tuple(carried),
        tuple(waiting),
        addresses,
        tuple(sysctls),
        (*problems, *bare.problems, *vrfs.problems(desired, observed)),
        frozenset(theirs),
        bare,
    )


def _with_ipv6(carried: Collection[Carried], desired: Desired, observed: Observed) -> Iterator[Carried]:
    """The same, with what is to be said about IPv6: on a shared link some tunnel's VIPs are enough."""
    inner = {item.link.name for item in carried if item.tunnel.name in desired.ipv6_tunnels}
    for item in carried:
        yield replace(item, ipv6=_has_ipv6(observed), inner_ipv6=item.link.name in inner)


def _has_ipv6(observed: Observed) -> bool:
    return SysctlKey("net/ipv6/conf/all/forwarding") in observed.sysctls


def _takers(link: Link, tunnel: Tunnel, carried: Iterable[Carried]) -> list[Carried]:
    """The tunnels of the file so far whose link takes the packets that *link* would."""
    means, outer = carrier(tunnel), link.outer
    assert outer is not None
    return [
        item
        for item in carried
        if item.link.kind in means.kinds and item.link.outer and means.clashes(item.link.outer, outer)
    ]


def _in_one(item: Carried, link: Link) -> bool:
    return item.link.master == link.master


def _rivalry(rival: Carried, tunnel: Tunnel, link: Link) -> DsrError:
    """Two tunnels of the file come to the same packets: the kernel has one link for them, or one port."""
    if not _in_one(rival, link):
        text = f"its packets would come out where those of tunnel {rival.tunnel.name} do, which is in another VRF"
        return Undecided(f"{text} ({link.kind} {link.outer})", "write the same vrf for both, or another local")
    where = (
        f"UDP port {tunnel.port} of {link.outer.local}" if tunnel.port and link.outer else f"{link.kind} {link.outer}"
    )
    return Undecided(
        f"it would take the same packets as tunnel {rival.tunnel.name} ({where})",
        "write one [[tunnel]] with the load balancers of both, or give one of them another "
        + ("port" if tunnel.port else "local"),
    )


# --- the link -----------------------------------------------------------------------------------------------------


def _current(
    tunnel: Tunnel, desired: Desired, observed: Observed, taken: Collection[str], local: Ip | None = None
) -> Link | None:
    """The link that carries *tunnel* now: the one of its name, or one that was adopted under its own."""
    if named := observed.links.get(tunnel.name):
        return named
    adopted = {
        link.outer.local: link
        for link in _ours_like(tunnel, observed, taken)
        if link.alias == ADOPTED_ALIAS and link.outer
    }
    said = tunnel.local.ip if isinstance(tunnel.local, LocalAddress) else local
    if said in adopted:
        return adopted[said]
    rivals = [
        other.local.ip if isinstance(other.local, LocalAddress) else None
        for other in desired.linked.values()
        if other.name != tunnel.name and other.name not in observed.links
        if (carrier(other).kinds, other.key) == (carrier(tunnel).kinds, tunnel.key)
    ]
    if rivals and said:  # it may be another's
        return None
    left = [link for address, link in adopted.items() if address not in rivals]
    return left[0] if left and (len(left) == 1 or not rivals) else None


def _ours_like(tunnel: Tunnel, observed: Observed, taken: Collection[str]) -> Iterator[Link]:
    """The links of ours, none of them of a name that is *taken*, that could carry *tunnel* at some address."""
    means = carrier(tunnel)
    for link in observed.links.values():
        if link.name not in taken and link.kind in means.kinds and owns_link(link):
            if link.outer and link.outer.key == tunnel.key:
                yield link


def _predecessor(tunnel: Tunnel, observed: Observed, taken: Collection[str]) -> Link | None:
    """The link that carried *tunnel* under a name that the file does not know any more, if it can be told."""
    found = list(_ours_like(tunnel, observed, taken))
    return found[0] if len(found) == 1 else None


def _companion(tunnel: Tunnel, desired: Desired, observed: Observed) -> Link | None:
    """The link that carries *tunnel* for another one of the file, because one of them comes in UDP."""
    for other in desired.linked.values():
        link = observed.links.get(other.name)
        if link and owns_link(link) and other.port != tunnel.port and other.version == tunnel.version:
            if link.kind in carrier(tunnel).kinds:
                return link
    return None


def _kinds(tunnel: Tunnel, desired: Desired, observed: Observed) -> tuple[str, ...]:
    """
    The kinds of link that can carry *tunnel* here, the one first that is made if none of them is there.

    All IP in IP over IPv4 goes together, because tunnels may share a link: as soon as an IPv6 VIP is behind any of it,
    only that kind will do which takes both (``sit``). One that takes IPv4 alone stays otherwise, and is made only where
    the other cannot be had: then it is better than nothing (`_ipv4_only`).
    """
    kinds = carrier(tunnel).kinds
    if len(kinds) == 1:
        return kinds
    both, ipv4_only = kinds
    if not _has_ipv6(observed):
        return (ipv4_only,)
    alike = [other.name for other in desired.linked.values() if carrier(other).kinds == kinds]
    ipv6 = not desired.ipv6_tunnels.isdisjoint(alike)
    hopeless = {kind for kind in kinds if MODULE_OF_KIND[kind] in observed.obstacles}
    if both in hopeless and not (ipv6 and ipv4_only in hopeless):
        return (ipv4_only,)
    return (both,) if ipv6 else kinds


def _likely_kinds(tunnel: Tunnel, desired: Desired, observed: Observed) -> tuple[str, ...]:
    """The kinds of link that may have to be made for *tunnel*, as far as can be said without knowing where it ends."""
    kinds = _kinds(tunnel, desired, observed)
    current = _current(tunnel, desired, observed, ())
    if current and current.kind in kinds:
        return (current.kind,)
    return kinds[:1] if MODULE_OF_KIND[kinds[0]] in observed.modules else carrier(tunnel).kinds


def _ipv4_only(carried: Iterable[Carried], desired: Desired, observed: Observed) -> Iterator[Problem]:
    """The IPv6 VIPs that some tunnel cannot bring, because the kind of link that takes both cannot be had here."""
    kinds = {item.tunnel.name: carrier(item.tunnel).kinds for item in carried if not takes(item.link, 6)}
    if not kinds or not _has_ipv6(observed):
        return
    for key, vip in desired.vips.items():
        name = next((name for name in vip.tunnels if key.ip.version == 6 and name in kinds), "")
        if name and (why := observed.obstacles.get(MODULE_OF_KIND[kinds[name][0]])):
            yield Problem(key, type(why)(f"{name} brings IPv4 VIPs only: {why.problem}", why.remedy))


def _carry(tunnel: Tunnel, local: Ip, desired: Desired, observed: Observed, taken: Collection[str]) -> Link:
    """The link for *tunnel*: under its own name, or the name of a link of the right shape that is adopted."""
    means, kinds = carrier(tunnel), _kinds(tunnel, desired, observed)
    vrf = vrfs.where_it_arrives(local, observed)
    current = _current(tunnel, desired, observed, taken, local)
    if current is None or not _serves(current, tunnel, local, vrf):
        adoptable = (
            link
            for link in observed.links.values()
            if link.name not in taken and (not owns_link(link) or link.alias == ADOPTED_ALIAS)
        )
        current = next((link for link in adoptable if _serves(link, tunnel, local, vrf)), current)
    kind = _misnamed(tunnel, local, kinds, observed, vrf) or kinds[0]
    if current and current.kind in (means.kinds if not owns_link(current) else kinds):
        kind = current.kind  # somebody else's is adopted as it is, before it is replaced
    elif current is None and len(kinds) > 1 and _taken_by_others(means.outer(tunnel, local, kind, vrf), kind, observed):
        kind = kinds[-1]
    outer = means.outer(tunnel, local, kind, vrf)
    own = Link(tunnel.name, kind, True, LINK_GROUP, ALIAS, outer, master=tunnel.vrf)
    if current is None or current.name == tunnel.name:
        return own
    return replace(own, name=current.name, alias=ADOPTED_ALIAS)


def _serves(link: Link, tunnel: Tunnel, local: Ip, vrf: str) -> bool:
    """Whether *link* takes exactly *tunnel*'s packets at *local*, whoever made it."""
    means = carrier(tunnel)
    return bool(
        link.kind in means.kinds and link.outer and means.same(link.outer, means.outer(tunnel, local, link.kind, vrf))
    )


def _misnamed(tunnel: Tunnel, local: Ip, kinds: Collection[str], observed: Observed, vrf: str) -> str:
    """The kind of a link of ours that does the work already, under whatever name; empty if there is none."""
    ours = (link for link in observed.links.values() if link.kind in kinds and owns_link(link))
    return next((link.kind for link in ours if _serves(link, tunnel, local, vrf)), "")


def _taken_by_others(outer: Outer, kind: str, observed: Observed) -> bool:
    """
    Whether somebody else's link has the place of one of *kind* with *outer*.

    The kernel asks every ``ipip`` link before any ``sit`` one (priorities 1 and 2: net/ipv4/ipip.c, net/ipv6/sit.c),
    and one that is up and for every address takes it all: ``external``, or the ``tunl0`` of another overlay.
    """
    others = [link for link in observed.links.values() if link.outer and not owns_link(link)]
    return any(
        (link.kind == kind and (link.outer.local, link.outer.remote) == (outer.local, None))
        or (kind == "sit" and link.kind == "ipip" and link.up and not (link.outer.local or link.outer.remote))
        for link in others
        if link.outer
    )


def tunnel_address(name: str) -> Address:
    """The address that makes loose reverse-path filtering work on the tunnel link *name*."""
    return Address(name, TUNNEL_ADDRESS, 32, SCOPE_HOST, ADDRESS_PROTO, label_for(name))
