"""
The sysctls that are wanted: of the tunnels' links, and of the links on whose segment somebody asks for VIPs. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network

from dsr_agent.state.model import Address, AddressKey, Desired, Observed, Sysctl


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


def links_that_may_answer(
    desired: Desired, observed: Observed, theirs: Mapping[AddressKey, Address], arrivals: Collection[object]
) -> list[str]:
    """
    The links on whose segment somebody may ask for a VIP.

    That is where the tunnels' packets arrive, and where a VIP or a load balancer is a neighbour.
    """
    if not desired.ipv4_neighbours:
        return []
    ends = {key.link for key in theirs if key.ip in arrivals}
    found: dict[str, None] = {}
    for key in theirs:
        link = observed.links.get(key.link)
        if not isinstance(key.ip, IPv4Address) or link is None or not link.answers_arp:
            continue
        if key.link in ends or _has_neighbour(key.ip, key.prefixlen, desired.ipv4_neighbours):
            found[key.link] = None
    return list(found)


def _has_neighbour(ip: IPv4Address, prefixlen: int, neighbours: tuple[int, ...]) -> bool:
    """Whether one of *neighbours* (sorted) is on the segment of *ip*/*prefixlen*."""
    if prefixlen == 32:
        return False
    network = IPv4Network((ip, prefixlen), strict=False)
    position = bisect_left(neighbours, int(network.network_address))
    return position < len(neighbours) and neighbours[position] <= int(network.broadcast_address)
