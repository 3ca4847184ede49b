"""
What those tunnels come to on this host that no link carries: packets that are not wrapped. Pure.

For ``dscp``, the addresses at which marked packets arrive. For ``l2``, where this host must not answer ARP: balancer
and real servers all have the VIP, and whoever answers for it on their segment gets the clients' requests. Of IPv6
nothing has to be said: the kernel never answers neighbour solicitations for an address of ``lo`` (facts B2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import NotYet, Undecided
from dsr_agent.state.local import LocalAddress, LocalOf
from dsr_agent.state.model import Address, AddressKey, Desired, Ip, Network, Observed, Tunnel, TunnelKey
from dsr_agent.state.vrfs import vrf_of

# One value counts for every link, also for one that is plugged in later or has no address yet.
EVERY_SEGMENT = "all"

_GLOBAL = 0


@dataclass(frozen=True, slots=True)
class Bare:
    """
    *marked_at*: the addresses of each ``dscp`` tunnel, by its name. *silent_on*: the links on whose segments this host
    has to be silent before it has a VIP, or `EVERY_SEGMENT`.
    """

    marked_at: Mapping[str, frozenset[Ip]] = field(default_factory=dict)
    silent_on: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def resolve_bare(desired: Desired, observed: Observed, theirs: Mapping[AddressKey, Address]) -> Bare:
    """Say what they come to in front of *observed*; *theirs* are the host's addresses that are not ours."""
    marked_at: dict[str, frozenset[Ip]] = {}
    problems: list[Problem] = []
    for name, tunnel in desired.tunnels.items():
        if tunnel.encapsulation == "dscp":
            marked_at[name] = frozenset(_arrivals(tunnel, desired, observed, theirs))
            if lacking := _no_arrival(tunnel, marked_at[name], observed, theirs):
                problems.append(Problem(TunnelKey(name), lacking))
    silent_on = tuple(_segments(desired)) if desired.silence_arp else ()
    for name, tunnel in desired.tunnels.items():
        if tunnel.encapsulation == "l2" and isinstance(tunnel.local, LocalOf):
            if tunnel.local.link not in observed.links:
                problems.append(
                    Problem(TunnelKey(name), NotYet(f"its interface {tunnel.local.link} is not there (yet)"))
                )
    return Bare(marked_at, silent_on, (*problems, *_nowhere_marked(desired, marked_at), *_talkative(desired, observed)))


def _arrivals(
    tunnel: Tunnel, desired: Desired, observed: Observed, theirs: Mapping[AddressKey, Address]
) -> Iterator[Ip]:
    """The addresses of this host, never a VIP, that *tunnel*'s packets are sent to: in its VRF, where the VIPs are."""
    local = tunnel.local
    if isinstance(local, LocalAddress):
        yield local.ip
        return
    for key, address in theirs.items():
        if address.scope == _GLOBAL and key.ip not in desired.key_of_ip and not key.ip.is_loopback:
            if vrf_of(key.link, observed.links) != tunnel.vrf:
                continue
            if not isinstance(local, LocalOf) or key.link == local.link:
                yield key.ip


def _no_arrival(
    tunnel: Tunnel, found: frozenset[Ip], observed: Observed, theirs: Mapping[AddressKey, Address]
) -> NotYet | None:
    local = tunnel.local
    if isinstance(local, LocalAddress):
        if any(key.ip == local.ip for key in theirs):
            return None
        return NotYet(f"its local address {local.ip} is not on this host", "no packet can arrive there until it is")
    if found:
        return None
    vrf = vrf_of(local.link, observed.links) if isinstance(local, LocalOf) else tunnel.vrf
    if isinstance(local, LocalOf) and vrf != tunnel.vrf and local.link in observed.links:
        where = f"is in VRF {vrf}" if vrf else "is in no VRF"
        remedy = f'write vrf = "{vrf}" in it' if vrf else f"ip link set {local.link} master {tunnel.vrf}"
        return NotYet(f"its local interface {local.link} {where}, and its VIPs are not", remedy)
    if isinstance(local, LocalOf):
        there = "has no address" if local.link in observed.links else "is not there"
        return NotYet(f"its local interface {local.link} {there} (yet)")
    return NotYet("this host has no address (yet) that packets could be sent to")


def _nowhere_marked(desired: Desired, marked_at: Mapping[str, frozenset[Ip]]) -> Iterator[Problem]:
    """VIPs of a version of IP of which no packet can arrive where their code point is looked for."""
    for key, vip in desired.vips.items() if marked_at else ():
        found = [ip for name in vip.tunnels for ip in marked_at.get(name, ())] if vip.dscp is not None else []
        if found and not any(ip.version == key.ip.version for ip in found):
            text = f"this host has no IPv{key.ip.version} address (yet) at which its marked packets could arrive"
            yield Problem(key, NotYet(text, "add one, or correct local in its [[tunnel]]"))


def over_segments(desired: Desired) -> frozenset[AddressKey]:
    """The VIPs whose requests come over a segment as they are (``l2``)."""
    over = {name for name, tunnel in desired.tunnels.items() if tunnel.encapsulation == "l2"}
    if not over:
        return frozenset()
    return frozenset(key for key, vip in desired.vips.items() if not over.isdisjoint(vip.tunnels))


def _segments(desired: Desired) -> Iterator[str]:
    if not any(key.ip.version == 4 for key in over_segments(desired)):
        return
    over = [tunnel.local for tunnel in desired.tunnels.values() if tunnel.encapsulation == "l2"]
    if all(isinstance(local, LocalOf) for local in over):
        yield from dict.fromkeys(local.link for local in over if isinstance(local, LocalOf))
    else:
        yield EVERY_SEGMENT


def on_talkative_devices(desired: Desired, observed: Observed) -> frozenset[AddressKey]:
    """
    The VIPs that are to be on a link which answers for its own addresses, whatever is set (``arp_ignore`` of 1 spares
    those), where somebody asks it for them: they come over a segment as they are, or are of the link's own network.
    """
    names = {name for name in desired.devices if name in observed.links and observed.links[name].answers_arp}
    if not names or not desired.silence_arp:
        return frozenset()
    over = over_segments(desired)
    networks: dict[str, list[Network]] = {name: [] for name in names}
    for key in observed.addresses:
        if key.link in names and key.prefixlen < key.ip.max_prefixlen:
            networks[key.link].append(ip_network((key.ip, key.prefixlen), strict=False))
    return frozenset(
        key
        for key in desired.vips
        if key.link in names and (key in over or any(key.ip in network for network in networks[key.link]))
    )


def _talkative(desired: Desired, observed: Observed) -> Iterator[Problem]:
    for key in sorted(on_talkative_devices(desired, observed), key=str):
        text = f"{key.link} answers ARP and neighbour solicitations for it, and only the balancer may"
        yield Problem(key, Undecided(text, 'write device = "lo"'))
