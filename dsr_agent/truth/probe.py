"""
Which VIPs are tried through which tunnels, with which datagrams. Pure.

The outer source is a declared load balancer, because who may send is part of what is tried. The packet inside is from
one of `CLIENTS`; a local address would be taken for forged by the kernel (facts B6).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import Desired, Ip, Link, Tunnel
from dsr_agent.state.ports import PortKey
from dsr_agent.state.probe import ANYBODY, CLIENTS, PAYLOAD, Shot
from dsr_agent.truth import packets
from dsr_agent.tunnels import carrier, takes


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
    port: PortKey | None = None
    """Where its packets are taken out of UDP, if they come in it."""
    arrives_in: str = ""
    """The VRF in which its packets arrive."""
    taken: Collection[Ip] = field(default=(), compare=False)
    """This host's addresses and VIPs: no balancer sends from one, and a link over IPv6 takes none (facts B6)."""


@dataclass(frozen=True, slots=True)
class MarkedWay:
    """
    A tunnel of the file whose packets are known by their code point: nothing is wrapped, and no link carries it.

    *arrivals* are the addresses they are sent to, one for each version of IP, and *codes* what stands for each VIP.
    A packet over ``lo`` shows that the VIP is written back and answers; it keeps the route it was sent by, so it shows
    nothing of what comes over the wire (facts B6).
    """

    tunnel: Tunnel
    arrivals: Mapping[int, Ip]
    codes: Mapping[Ip, int]


Ways: TypeAlias = Mapping[str, Way | MarkedWay]


def carries(way: Way | MarkedWay | None, vip: Ip) -> bool:
    """Whether a packet for *vip* can be sent that *way*."""
    if isinstance(way, MarkedWay):
        return vip.version in way.arrivals and vip in way.codes
    return way is not None and takes(way.link, vip.version)


def pairs(desired: Desired, ways: Ways, named: Collection[Ip] = ()) -> tuple[Pair, ...]:
    """
    Every VIP (of those *named*, if any are) with each of its tunnels that has a link, or needs none.

    One that is held may be away, and is tried only if it is named.
    """
    return tuple(
        Pair(vip.ip, name)
        for vip in desired.vips.values()
        if (vip.ip in named if named else vip.ip not in desired.held)
        for name in vip.tunnels
        if carries(ways.get(name), vip.ip)
    )


def clients(taken: Collection[Ip]) -> Mapping[int, Ip]:
    """Who the packets say they are from, by version of IP: never one of *taken*, the VIPs and this host's own."""
    found: dict[int, Ip] = {}
    for candidate in reversed(CLIENTS):
        if candidate not in taken:
            found[candidate.version] = candidate
    return found


def shot(pair: Pair, way: Way | MarkedWay, client: Ip) -> Shot:
    """What is to be sent for *pair*."""
    if isinstance(way, MarkedWay):
        return _marked(pair, way, client)
    outer = way.link.outer
    assert outer is not None
    assert outer.local is not None
    local, means = outer.local, carrier(way.tunnel)
    sender, protocol = _sender(way.tunnel, way.taken), means.protocol(pair.vip.version)

    def wrap(port: int, payload: bytes) -> bytes:
        inner = packets.udp(client, pair.vip, port, payload)
        return packets.ip(sender, local, protocol, means.wrap(way.tunnel, pair.vip.version, inner))

    return Shot(
        pair.vip,
        way.link.name,
        local,
        client,
        lambda found: _unfit(found, way),
        wrap,
        way.port,
        arrives_in=way.arrives_in,
        vrf=way.tunnel.vrf,
    )


def _marked(pair: Pair, way: MarkedWay, client: Ip) -> Shot:
    local, code = way.arrivals[pair.vip.version], way.codes[pair.vip]

    def mark(port: int, payload: bytes) -> bytes:
        return packets.udp(client, local, port, payload, dscp=code)

    vrf = way.tunnel.vrf
    over = vrf or "lo"

    def unfit(found: Link | None) -> str:
        return "" if found and found.up else f"{over} is down"

    return Shot(pair.vip, over, local, client, unfit, mark, bare=True, arrives_in=vrf, vrf=vrf)


def inner_size(version: int) -> int:
    """How many bytes of a datagram come out of the tunnel."""
    return (20 if version == 4 else 40) + 8 + PAYLOAD


def _sender(tunnel: Tunnel, taken: Collection[Ip]) -> Ip:
    """The first host of the narrowest network that is nobody's here, and never one of 0.0.0.0/8 or ::/8."""
    if not tunnel.load_balancers:
        return ANYBODY[tunnel.version]
    narrow = max(tunnel.load_balancers, key=lambda network: network.prefixlen)
    lowest = ip_address("1.0.0.0" if tunnel.version == 4 else "100::")
    first = lowest if int(narrow.network_address) < int(lowest) else narrow.network_address
    edge = 1 if narrow.prefixlen < narrow.max_prefixlen - 1 else 0  # the network's own address, and the broadcast
    first += edge
    others = min(int(narrow.broadcast_address) - edge - int(first), len(taken))
    return next((first + step for step in range(others + 1) if first + step not in taken), first)


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
