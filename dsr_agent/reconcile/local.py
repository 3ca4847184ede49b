"""Where a tunnel's packets arrive: the address that the file writes, or leaves to the host to say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Network, ip_address

from dsr_agent.state.errors import DsrError, NotYet, Undecided
from dsr_agent.state.local import LocalAddress, LocalOf, LocalTowards, Towards
from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import Address, AddressKey, Desired, Ip, Link, Observed, Tunnel

# Asking for the route to this address is asking for the default route: class E is never anybody's own network, nor is
# the far end of the documentation's (RFC 9637).
DEFAULT_ROUTE_TARGET: Mapping[int, Ip] = {4: ip_address("240.0.0.1"), 6: ip_address("3fff:fff:ffff::1")}

# The IPv4-compatible addresses that a sit link gives itself as it comes up (net/ipv6/addrconf.c, sit_add_v4_addrs).
OF_SIT_LINKS = IPv6Network("::/96")


def targets(desired: Desired) -> tuple[Towards, ...]:
    """Those whose route decides about a ``local = "auto"``."""
    asked: dict[Towards, None] = {}
    for tunnel in desired.linked.values():
        if isinstance(tunnel.local, LocalTowards):
            asked.update(dict.fromkeys(_asked(tunnel, tunnel.local)))
    return tuple(asked)


def _asked(tunnel: Tunnel, local: LocalTowards) -> tuple[Towards, ...]:
    return tuple(Towards(ip, tunnel.vrf) for ip in local.targets or (DEFAULT_ROUTE_TARGET[tunnel.version],))


def local_address(
    tunnel: Tunnel,
    desired: Desired,
    observed: Observed,
    theirs: Mapping[AddressKey, Address],
    current: Link | None,
) -> tuple[Ip | None, DsrError | None]:
    """
    The address at which *tunnel*'s outer packets arrive, and what is wrong with it.

    *theirs* are the host's addresses that are not ours. While no address can be told, the *current* link keeps the
    one it has: the address may come back, and then the traffic resumes by itself (facts A9).
    """
    has = current.outer.local if current and owns_link(current) and current.outer else None
    kept = has if has and has.version == tunnel.version else None
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
            if key.link == local.link and key.ip.version == tunnel.version
            if key.ip not in desired.key_of_ip and address.scope == 0 and not address.deprecated
        ]
        if kept in choices:
            return kept, None
        if choices:
            return choices[0], None
        there = f"has no IPv{tunnel.version} address" if local.link in observed.links else "is not there"
        return kept, NotYet(f"its local interface {local.link} {there} (yet)")
    assert isinstance(local, LocalTowards)  # "auto" means something else only where no link carries it
    found = {target: source for target in _asked(tunnel, local) if (source := observed.sources.get(target))}
    sources = {target: source for target, source in found.items() if not _of_no_use(source, desired)}
    if found and not sources:
        source = next(iter(found.values()))
        what = f"this host would answer from {source}, {_of_no_use(source, desired)}"
        return kept, NotYet(f"{what}, so its local address is not known (yet)")
    return _towards(sources, kept, bool(local.targets))


def _of_no_use(source: Ip, desired: Desired) -> str:
    """
    Why no load balancer can send to an address that the kernel would choose as a source; empty if it can.

    With its global address gone a host goes on by its link-local one: routers are reached by theirs (RFC 4861); or by
    the one that a ``sit`` link made itself of its local IPv4 address (``::10.0.3.2``, RFC 4291, 2.5.5.1).
    """
    if source in desired.key_of_ip:
        return "a VIP"
    if source.version == 6 and source in OF_SIT_LINKS:
        return "an address that a sit link made itself"
    return "a link-local address" if source.version == 6 and source.is_link_local else ""


def _towards(sources: Mapping[Towards, Ip], kept: Ip | None, named: bool) -> tuple[Ip | None, DsrError | None]:
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
