"""
What the file leaves open, said in front of what the host holds.

``local = "auto"`` becomes an address, a tunnel becomes a link under the name it has or will have, the sysctls of that
link get their paths, and the links that share a segment with a VIP are found. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import DsrError, NotYet, Undecided
from dsr_agent.state.marks import (
    ADDRESS_PROTO,
    ADOPTED_ALIAS,
    ALIAS,
    LINK_GROUP,
    LONGEST_NAME,
    label_for,
    owns_address,
    owns_link,
)
from dsr_agent.state.model import (
    MODULE_OF_KIND,
    Address,
    AddressKey,
    Desired,
    Link,
    LocalAddress,
    LocalOf,
    Observed,
    Sysctl,
    SysctlKey,
    Tunnel,
    TunnelKey,
)
from dsr_agent.tunnels import carrier

# Loose reverse-path filtering drops everything on a link without an IPv4 address (facts B2), so each tunnel carries
# one: the dummy address of RFC 7600, of host scope, that nobody ever talks to or from.
TUNNEL_ADDRESS = IPv4Address("192.0.0.8")

# Asking for the route to this address is asking for the default route: class E is never anybody's own network.
DEFAULT_ROUTE_TARGET = IPv4Address("240.0.0.1")

SCOPE_HOST = 254

# What a link of ours is called while it replaces another one; never longer than the kernel's 15 characters.
_STAND_IN, _OTHER_STAND_IN = ".new", ".alt"


@dataclass(frozen=True, slots=True)
class Carried:
    """A tunnel of the file, and the link that carries it: as it should be, under the name that it has or will have."""

    tunnel: Tunnel
    link: Link
    ipv6: bool = True
    """Whether this host has IPv6 at all."""
    inner_ipv6: bool = False
    """Whether some IPv6 VIP expects its requests from here."""

    def sysctls(self, name: str) -> tuple[Sysctl, ...]:
        """What is wanted of the link that carries this tunnel while it is called *name*."""
        return tunnel_sysctls(name, self.ipv6, self.inner_ipv6)


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What the tunnels of the file come to on this host.

    *waiting* are tunnels whose link is left as it is while something is awaited, by the name of that link. *own* are
    this host's addresses, those of its tunnels and VIPs left away.

    The VIPs' own addresses are not in *addresses*: they need no resolving (`Desired.addresses`).
    """

    carried: tuple[Carried, ...] = ()
    waiting: Mapping[str, Tunnel] = field(default_factory=dict)
    addresses: Mapping[AddressKey, Address] = field(default_factory=dict)
    sysctls: tuple[tuple[str, Sysctl], ...] = ()
    problems: tuple[Problem, ...] = ()
    own: frozenset[AddressKey] = frozenset()


def targets(desired: Desired) -> tuple[IPv4Address, ...]:
    """The addresses whose route decides about a ``local = "auto"``."""
    asked: dict[IPv4Address, None] = {}
    for tunnel in desired.tunnels.values():
        if not isinstance(tunnel.local, LocalAddress | LocalOf):
            asked.update(dict.fromkeys(tunnel.local.targets or (DEFAULT_ROUTE_TARGET,)))
    return tuple(asked)


def missing_modules(desired: Desired, observed: Observed) -> frozenset[str]:
    """The modules that the links of *desired*'s tunnels need, and that the kernel has not got yet."""
    there = {link.kind for link in observed.links.values()}
    kinds = {carrier(tunnel).kind for tunnel in desired.tunnels.values()} - there
    return frozenset(MODULE_OF_KIND[kind] for kind in kinds & MODULE_OF_KIND.keys()) - observed.modules


def resolve(desired: Desired, observed: Observed) -> Wanted:
    """Say what *desired*'s tunnels come to in front of *observed*."""
    carried: list[Carried] = []
    waiting: dict[str, Tunnel] = {}
    problems: list[Problem] = []
    taken = {*desired.tunnels, *map(stand_in_name, desired.tunnels)}  # names that mean something else
    theirs = {key: address for key, address in observed.addresses.items() if not owns_address(address)}
    for tunnel in desired.tunnels.values():
        current = _current(tunnel, observed, taken - {tunnel.name})
        local, trouble = _local(tunnel, desired, observed, theirs, current)
        if trouble:
            problems.append(Problem(TunnelKey(tunnel.name), trouble))
        if local is None:
            if current:
                waiting[current.name] = tunnel
            continue
        link = _carry(tunnel, local, observed, taken - {tunnel.name})
        if rival := _rival(link, tunnel, carried):
            problems.append(Problem(TunnelKey(tunnel.name), rival))
            if current:
                waiting[current.name] = tunnel
            continue
        taken.add(link.name)
        ipv6 = SysctlKey("net/ipv6/conf/all/forwarding") in observed.sysctls
        carried.append(Carried(tunnel, link, ipv6, tunnel.name in desired.ipv6_tunnels))
    addresses = {address.key: address for item in carried for address in [tunnel_address(item.link.name)]}
    sysctls = [(item.link.name, sysctl) for item in carried for sysctl in item.sysctls(item.link.name)]
    if desired.silence_arp:
        locals_ = {item.link.outer.local for item in carried if item.link.outer}
        for name in _arp_links(desired, observed, theirs, locals_):
            sysctls += [(name, sysctl) for sysctl in arp_sysctls(name)]
    return Wanted(tuple(carried), waiting, addresses, tuple(sysctls), tuple(problems), frozenset(theirs))


def _rival(link: Link, tunnel: Tunnel, carried: Iterable[Carried]) -> DsrError | None:
    """Two tunnels of the file that come to the same packets: the kernel has one link for them."""
    for item in carried:
        one, other = item.link.outer, link.outer
        if item.link.kind == link.kind and one and other and carrier(tunnel).clashes(one, other):
            return Undecided(
                f"it would take the same packets as tunnel {item.tunnel.name} ({link.kind} {other})",
                "write one [[tunnel]] with the load balancers of both, or give one of them another local",
            )
    return None


# --- the local address --------------------------------------------------------------------------------------------


def _local(
    tunnel: Tunnel,
    desired: Desired,
    observed: Observed,
    theirs: Mapping[AddressKey, Address],
    current: Link | None,
) -> tuple[IPv4Address | None, DsrError | None]:
    """
    The address at which *tunnel*'s outer packets arrive, and what is wrong with it.

    *theirs* are the host's addresses that are not ours. While no address can be told, the *current* link keeps the
    one it has: the address may come back, and then the traffic resumes by itself (facts A9).
    """
    has = current.outer.local if current and owns_link(current) and current.outer else None
    kept = has if isinstance(has, IPv4Address) else None
    local = tunnel.local
    if isinstance(local, LocalAddress):
        if any(key.ip == local.ip for key in theirs):
            return local.ip, None
        return local.ip, NotYet(
            f"its local address {local.ip} is not on this host", "no packet can arrive there until it is"
        )
    if isinstance(local, LocalOf):
        choices = [
            key.ip
            for key, address in theirs.items()
            if key.link == local.link and isinstance(key.ip, IPv4Address)
            if key.ip not in desired.key_of_ip and address.scope == 0
        ]
        if kept in choices:
            return kept, None
        if choices:
            return choices[0], None
        there = "has no IPv4 address" if local.link in observed.links else "is not there"
        return kept, NotYet(f"its local interface {local.link} {there} (yet)")
    sources = {
        target: observed.sources[target]
        for target in local.targets or (DEFAULT_ROUTE_TARGET,)
        if target in observed.sources and observed.sources[target] not in desired.key_of_ip
    }
    return _towards(sources, kept, bool(local.targets))


def _towards(
    sources: Mapping[IPv4Address, IPv4Address], kept: IPv4Address | None, named: bool
) -> tuple[IPv4Address | None, DsrError | None]:
    choices = set(sources.values())
    if kept in choices:
        return kept, None
    if len(choices) == 1:
        return choices.pop(), None
    if choices:
        ways = ", ".join(f"{source} towards {target}" for target, source in sources.items())
        first = next(iter(sources.values()))
        return kept, Undecided(
            f"its load balancers are reached from different addresses ({ways})",
            f'say at which one they send: local = "{first}", or write one [[tunnel]] for each',
        )
    whom = "its load balancers" if named else "the default gateway"
    return kept, NotYet(f"there is no route to {whom} (yet), so its local address is not known")


# --- the link -----------------------------------------------------------------------------------------------------


def _current(tunnel: Tunnel, observed: Observed, taken: Collection[str]) -> Link | None:
    """The link that carries *tunnel* now: the one of its name, or one that was adopted under its own."""
    if named := observed.links.get(tunnel.name):
        return named
    means = carrier(tunnel)
    for link in observed.links.values():
        if link.name not in taken and link.kind == means.kind and link.outer:
            if owns_link(link) and link.alias == ADOPTED_ALIAS and link.outer.key == tunnel.key:
                return link
    return None


def _carry(tunnel: Tunnel, local: IPv4Address, observed: Observed, taken: Collection[str]) -> Link:
    """The link for *tunnel*: under its own name, or the name of a link of the right shape that is adopted."""
    means = carrier(tunnel)
    outer = means.outer(tunnel, local)
    own = Link(tunnel.name, means.kind, True, LINK_GROUP, ALIAS, outer)
    current = _current(tunnel, observed, taken)
    if current is None:
        for link in observed.links.values():
            if link.name not in taken and link.kind == means.kind and link.outer and not owns_link(link):
                if means.same(link.outer, outer):
                    current = link
                    break
    if current is None or current.name == tunnel.name:
        return own
    return replace(own, name=current.name, alias=ADOPTED_ALIAS)


def stand_in_name(name: str) -> str:
    """What the link that replaces *name* is called until it takes over the name."""
    stand_in = name[: LONGEST_NAME - len(_STAND_IN)] + _STAND_IN
    return stand_in if stand_in != name else name.removesuffix(_STAND_IN) + _OTHER_STAND_IN


def tunnel_address(name: str) -> Address:
    """The address that makes loose reverse-path filtering work on the tunnel link *name*."""
    return Address(name, TUNNEL_ADDRESS, 32, SCOPE_HOST, ADDRESS_PROTO, label_for(name))


# --- sysctls ------------------------------------------------------------------------------------------------------


def tunnel_sysctls(name: str, ipv6: bool, inner_ipv6: bool) -> tuple[Sysctl, ...]:
    """
    The sysctls of a tunnel link.

    The kernel takes the larger of ``all`` and the link's rp_filter, so 2 (loose) works whatever ``all`` is, and
    nothing but our own link has to be touched (peers K1, K2). Nothing decapsulated is ever forwarded. Without a
    generated link-local address the link sends no router solicitations into a tunnel that only receives.
    """
    wanted = [
        Sysctl(f"net/ipv4/conf/{name}/rp_filter", 2),
        Sysctl(f"net/ipv4/conf/{name}/forwarding", 0),
    ]
    if ipv6:
        wanted += [
            Sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", 1),
            Sysctl(f"net/ipv6/conf/{name}/forwarding", 0),
        ]
    if ipv6 and inner_ipv6:
        wanted.append(Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", 0))
    return tuple(wanted)


def arp_sysctls(name: str) -> tuple[Sysctl, ...]:
    """What keeps a link from answering ARP for a VIP, and from naming one as the asker (facts B2)."""
    return (
        Sysctl(f"net/ipv4/conf/{name}/arp_ignore", 1, at_least=True),
        Sysctl(f"net/ipv4/conf/{name}/arp_announce", 2, at_least=True),
    )


def _arp_links(
    desired: Desired, observed: Observed, theirs: Mapping[AddressKey, Address], arrivals: Iterable[object]
) -> list[str]:
    """
    The links on whose segment somebody may ask for a VIP.

    That is where the tunnels' packets arrive, and where a VIP or a load balancer is a neighbour.
    """
    if not desired.ipv4_neighbours:
        return []
    found: dict[str, None] = {}
    for key in theirs:
        link = observed.links.get(key.link)
        if not isinstance(key.ip, IPv4Address) or link is None or not link.answers_arp:
            continue
        if key.ip in arrivals or _has_neighbour(key.ip, key.prefixlen, desired.ipv4_neighbours):
            found[key.link] = None
    return list(found)


def _has_neighbour(ip: IPv4Address, prefixlen: int, neighbours: tuple[int, ...]) -> bool:
    """Whether one of *neighbours* (sorted) is on the segment of *ip*/*prefixlen*."""
    if prefixlen == 32:
        return False
    network = IPv4Network((ip, prefixlen), strict=False)
    position = bisect_left(neighbours, int(network.network_address))
    return position < len(neighbours) and neighbours[position] <= int(network.broadcast_address)
