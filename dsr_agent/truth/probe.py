"""
Which VIPs are tried through which tunnels, with which datagrams. Pure.

The outer source is a declared load balancer, because who may send is part of what is tried. The packet inside is from
one of `CLIENTS`; a local address would be taken for forged by the kernel (facts B6).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import Desired, Ip, Link, Network, Tunnel, Vip
from dsr_agent.state.probe import ANYBODY, CLIENTS, PAYLOAD, Shot
from dsr_agent.truth import packets
from dsr_agent.tunnels import carrier


class Pair(NamedTuple):
    """A VIP, and a tunnel that its requests come through, by its name in the file."""

    vip: Ip
    tunnel: str

    def __str__(self) -> str:
        return f"VIP {self.vip} by {self.tunnel}"


@dataclass(frozen=True, slots=True)
class Way:
    """A tunnel of the file, and the link that has to carry it."""

    tunnel: Tunnel
    link: Link


def pairs(desired: Desired, ways: Mapping[str, Way], named: Collection[Ip] = ()) -> tuple[Pair, ...]:
    """
    Every VIP (of those *named*, if any are) with each of its tunnels that can carry it and has a link to do so.

    One that is held may be away, and is tried only if it is named.
    """
    return tuple(
        Pair(vip.ip, name)
        for vip in desired.vips.values()
        if (vip.ip in named if named else vip.ip not in desired.held)
        for name in tunnels_of(vip, desired)
        if name in ways
    )


def tunnels_of(vip: Vip, desired: Desired) -> tuple[str, ...]:
    """Those of the VIP's tunnels that carry its version of IP."""
    return tuple(name for name in vip.tunnels if vip.ip.version in carrier(desired.tunnels[name]).carries)


def clients(taken: Collection[Ip]) -> Mapping[int, Ip]:
    """Who the packets say they are from, by version of IP: never one of *taken*, the VIPs and this host's own."""
    found: dict[int, Ip] = {}
    for candidate in reversed(CLIENTS):
        if candidate not in taken:
            found[candidate.version] = candidate
    return found


def shot(pair: Pair, way: Way, client: Ip) -> Shot:
    """What is to be sent for *pair*."""
    outer = way.link.outer
    assert outer is not None
    assert isinstance(outer.local, IPv4Address)
    local, means = outer.local, carrier(way.tunnel)

    def wrap(port: int, payload: bytes) -> bytes:
        inner = packets.udp(client, pair.vip, port, payload)
        wrapped = means.wrap(way.tunnel, pair.vip.version, inner)
        return packets.ipv4(_sender(way.tunnel.load_balancers), local, means.protocol, wrapped)

    return Shot(pair.vip, way.link.name, local, client, lambda found: _unfit(found, way), wrap)


def inner_size(version: int) -> int:
    """How many bytes of a datagram come out of the tunnel."""
    return (20 if version == 4 else 40) + 8 + PAYLOAD


def _sender(load_balancers: Iterable[Network]) -> IPv4Address:
    """The first host of the narrowest network, and never one of 0.0.0.0/8."""
    networks = [network for network in load_balancers if isinstance(network, IPv4Network)]
    if not networks:
        return ANYBODY
    narrow = max(networks, key=lambda network: network.prefixlen)
    return max(narrow.network_address, IPv4Address("1.0.0.0")) + (1 if narrow.prefixlen < 31 else 0)


def _unfit(found: Link | None, way: Way) -> str:
    """Why nothing may be sent: where no link takes the packet, the kernel tells the balancer by ICMP (facts B6)."""
    wanted = way.link
    if found is None:
        return "the tunnel is missing"
    if not owns_link(found):
        return f"the link {found.name} is not ours"
    if not found.up:
        return "the tunnel is down"
    if (
        found.kind != wanted.kind
        or found.outer is None
        or wanted.outer is None
        or not carrier(way.tunnel).same(found.outer, wanted.outer)
    ):
        return f"the tunnel is other than declared: {found}"
    return ""
