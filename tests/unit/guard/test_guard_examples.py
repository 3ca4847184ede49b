"""The guard packet by packet: one host, one file, and what becomes of what is sent to it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest

from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.ruleset import Request, ruleset
from dsr_agent.state.marks import LINK_GROUP
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import (
    GRE,
    ICMP,
    ICMPV6,
    IPIP,
    SCTP,
    SIX_IN_FOUR,
    TCP,
    UDP,
    Packet,
    gre,
    inner,
    outer,
    ports,
)
from tests.unit.guard.specification import expected

LOCAL = IPv4Address("10.0.3.2")
OPEN, OPEN_GRE = IPv4Address("10.0.3.3"), IPv4Address("10.0.3.4")

REQUEST = Request(
    entrances=(
        Entrance("ipip", LOCAL, IPIP, (IPv4Network("10.0.0.0/8"), IPv4Network("10.1.0.0/16"), IPv4Network("10.1.0.5"))),
        Entrance("seven", LOCAL, GRE, (IPv4Network("10.1.0.5"),), key=7),
        Entrance("eight", LOCAL, GRE, (IPv4Network("10.1.0.6"),), key=8, checksum=True),
        Entrance("open", OPEN, IPIP, ()),
        Entrance("open_gre", OPEN_GRE, GRE, ()),
    ),
    vips=(
        GuardedVip(ip_address("192.0.2.10")),
        GuardedVip(ip_address("192.0.2.11"), ("udp/1812",)),
        GuardedVip(ip_address("192.0.2.12"), (), ("seven", "seven.new")),
        GuardedVip(ip_address("192.0.2.13"), ("udp/1812",), ("seven",)),
        GuardedVip(ip_address("2001:db8::10")),
        GuardedVip(ip_address("2001:db8::11"), ("tcp/443",)),
        GuardedVip(ip_address("2001:db8::12"), (), ("seven",)),
    ),
    own=frozenset(map(ip_address, ("10.0.3.2", "10.0.3.3", "2001:db8:1::1"))),
)


ARRIVING = {
    "a balancer": (outer("10.1.0.5", "10.0.3.2"), 'from-ipip "10.1.0.5"'),
    "its neighbour, by the network": (outer("10.1.0.9", "10.0.3.2"), 'from-ipip/16 "10.1.0.0"'),
    "one farther away, by the wider network": (outer("10.9.9.9", "10.0.3.2"), 'from-ipip/8 "10.0.0.0"'),
    "a stranger": (outer("198.51.100.1", "10.0.3.2"), "source"),
    "a stranger, where anybody may send": (outer("198.51.100.1", "10.0.3.3"), "from-open"),
    "a stranger with GRE, where anybody may send IPIP": (outer("198.51.100.1", "10.0.3.3", GRE, gre()), "source"),
    "a stranger with IPIP, where anybody may send GRE": (outer("198.51.100.1", "10.0.3.4"), "source"),
    "a stranger with a key, where anybody may send GRE": (outer("198.51.100.1", "10.0.3.4", GRE, gre(7)), "gre_header"),
    "a stranger, with IPv6 in IPv4": (outer("198.51.100.1", "10.0.3.2", SIX_IN_FOUR), "source"),
    "a balancer, with IPv6 in IPv4": (outer("10.1.0.5", "10.0.3.2", SIX_IN_FOUR), "protocol"),
    "a balancer with its key": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7)), 'from-seven "10.1.0.5"'),
    "IPv6 inside": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7, ethertype=0x86DD)), 'from-seven "10.1.0.5"'),
    "numbered packets": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7, flags=0x1000)), 'from-seven "10.1.0.5"'),
    "the other one with its own": (outer("10.1.0.6", "10.0.3.2", GRE, gre(8, checksum=True)), 'from-eight "10.1.0.6"'),
    "a balancer with the other's key": (outer("10.1.0.5", "10.0.3.2", GRE, gre(8, checksum=True)), "gre_header"),
    "the other one with the first's": (outer("10.1.0.6", "10.0.3.2", GRE, gre(7)), "gre_header"),
    "no key": (outer("10.1.0.5", "10.0.3.2", GRE, gre()), "gre_header"),
    "a checksum that is not declared": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7, checksum=True)), "gre_header"),
    "a whole Ethernet frame inside": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7, ethertype=0x6558)), "gre_header"),
    "routing in the header": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7, flags=0x4000)), "gre_header"),
    "another version of GRE": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7, flags=1)), "gre_header"),
    "half a header": (outer("10.1.0.5", "10.0.3.2", GRE, gre(7)[:6]), "gre_header"),
    "a sender of another tunnel with GRE": (outer("10.9.9.9", "10.0.3.2", GRE, gre(7)), "protocol"),
    "a stranger with GRE": (outer("198.51.100.1", "10.0.3.2", GRE, gre(7)), "source"),
    "wrapped, and to nobody's tunnel": (outer("198.51.100.1", "10.0.3.77"), ""),
    "not wrapped": (outer("198.51.100.1", "10.0.3.2", TCP, ports(22)), ""),
    "not wrapped, to a VIP": (outer("198.51.100.1", "192.0.2.10", TCP, ports(80)), ""),
}

OUT_OF_A_TUNNEL = {
    "a client": (inner("198.51.100.1", "192.0.2.10"), 'vips4 "192.0.2.10"'),
    "a client, over IPv6": (inner("2001:db8:9::9", "2001:db8::10"), 'vips6 "2001:db8::10"'),
    "any protocol": (inner("198.51.100.1", "192.0.2.10", SCTP), 'vips4 "192.0.2.10"'),
    "the service": (inner("198.51.100.1", "192.0.2.11", UDP, 1812), 'served4 "192.0.2.11"'),
    "the service, over IPv6": (inner("2001:db8:9::9", "2001:db8::11", TCP, 443), 'served6 "2001:db8::11"'),
    "a later piece": (inner("198.51.100.1", "192.0.2.11", UDP, 1, 185), 'served4 "192.0.2.11"'),
    "a later piece, over IPv6": (inner("2001:db8:9::9", "2001:db8::11", UDP, 1, 181), 'served6 "2001:db8::11"'),
    "the first piece": (inner("198.51.100.1", "192.0.2.11", UDP, 1812, 0), 'served4 "192.0.2.11"'),
    "the first piece, to another port": (inner("198.51.100.1", "192.0.2.11", UDP, 53, 0), "service"),
    "the first piece, to another port, over IPv6": (inner("2001:db8:9::9", "2001:db8::11", TCP, 53, 0), "service"),
    "ICMP": (inner("198.51.100.1", "192.0.2.11", ICMP), 'served4 "192.0.2.11"'),
    "ICMP, over IPv6": (inner("2001:db8:9::9", "2001:db8::11", ICMPV6), 'served6 "2001:db8::11"'),
    "the ICMP of the other IP": (inner("198.51.100.1", "192.0.2.11", ICMPV6), "service"),
    "the ICMP of the other IP, over IPv6": (inner("2001:db8:9::9", "2001:db8::11", ICMP), "service"),
    "another port": (inner("198.51.100.1", "192.0.2.11", UDP, 53), "service"),
    "the port in another protocol": (inner("198.51.100.1", "192.0.2.11", TCP, 1812), "service"),
    "another VIP's service": (inner("2001:db8:9::9", "2001:db8::11", UDP, 1812), "service"),
    "the tunnel that the VIP is for": (
        inner("198.51.100.1", "192.0.2.12", link="seven"),
        'bound4 {"concat":["seven","192.0.2.12"]}',
    ),
    "what takes its place": (
        inner("198.51.100.1", "192.0.2.12", link="seven.new"),
        'bound4 {"concat":["seven.new","192.0.2.12"]}',
    ),
    "the tunnel that the VIP is for, over IPv6": (
        inner("2001:db8:9::9", "2001:db8::12", link="seven"),
        'bound6 {"concat":["seven","2001:db8::12"]}',
    ),
    "the service, out of its tunnel": (
        inner("198.51.100.1", "192.0.2.13", UDP, 1812, link="seven"),
        'bound_served4 {"concat":["seven","192.0.2.13"]}',
    ),
    "another service, out of its tunnel": (inner("198.51.100.1", "192.0.2.13", UDP, 53, link="seven"), "service"),
    "another tunnel's VIP": (inner("198.51.100.1", "192.0.2.12"), "inner_destination"),
    "another tunnel's VIP, over IPv6": (inner("2001:db8:9::9", "2001:db8::12", link="eight"), "inner_destination"),
    "another tunnel's VIP and service": (inner("198.51.100.1", "192.0.2.13", UDP, 1812), "inner_destination"),
    "not a VIP": (inner("198.51.100.1", "10.0.3.2"), "inner_destination"),
    "not a VIP, over IPv6": (inner("2001:db8:9::9", "2001:db8:1::1"), "inner_destination"),
    "wrapped in a wrapped packet": (inner("10.1.0.5", "10.0.3.2", IPIP), "inner_destination"),
    "wrapped, to a VIP": (inner("198.51.100.1", "192.0.2.10", GRE), "nested"),
    "wrapped in IPv6, to a VIP": (inner("2001:db8:9::9", "2001:db8::10", SIX_IN_FOUR), "nested"),
    "wrapped, to a VIP's service": (inner("198.51.100.1", "192.0.2.11", IPIP), "nested"),
    "wrapped, from this host": (inner("10.0.3.2", "192.0.2.10", IPIP), "inner_source"),
    "this host, to no VIP": (inner("10.0.3.2", "10.0.3.3"), "inner_destination"),
}

# Whom no client can be. A VIP cannot either, nor can this host.
NOBODY = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "10.0.3.3"]
NOBODY += ["192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11", "2001:db8:1::1", "::", "::1", "ff02::1"]
NOBODY += ["fe80::1", "febf:ffff::1", "::ffff:198.51.100.1", "::ffff:127.0.0.1"]
SOMEBODY = ["223.255.255.255", "1.1.1.1", "10.1.0.5", "fec0::1", "fe7f::1", "::fffe:c633:6401", "64:ff9b::1", "::2"]


def became(packet: Packet, hook: str = "prerouting") -> str:
    """Where *packet* was counted; nowhere is not our business."""
    verdict = judge(ruleset(REQUEST), packet, hook)
    assert verdict.accepted == (expected(REQUEST, packet).reason is None)
    return " ".join(" ".join(place).strip() for place in verdict.counts.elements())


@pytest.mark.parametrize("what", ARRIVING)
def test_what_arrives(what: str) -> None:
    """The first that fits is why it is refused."""
    packet, where = ARRIVING[what]

    assert became(packet) == where


@pytest.mark.parametrize("what", OUT_OF_A_TUNNEL)
def test_what_comes_out_of_a_tunnel(what: str) -> None:
    """The same, one header further in."""
    packet, where = OUT_OF_A_TUNNEL[what]

    assert became(packet) == where


@pytest.mark.parametrize("source", NOBODY)
def test_whom_no_client_can_be(source: str) -> None:
    """Not for an open VIP, and not for a service."""
    ends = ("192.0.2.10", "192.0.2.11") if "." in source and ":" not in source else ("2001:db8::10", "2001:db8::11")

    assert [became(inner(source, end, protocol)) for end in ends for protocol in (UDP, ICMP)] == ["inner_source"] * 4


@pytest.mark.parametrize("source", SOMEBODY)
def test_who_is_a_client_although_nearly_nobody(source: str) -> None:
    """The borders of what no client can have."""
    vip = "2001:db8::10" if ":" in source else "192.0.2.10"

    assert became(inner(source, vip)).endswith(f'"{vip}"')


@pytest.mark.parametrize(("comes", "goes"), [(True, False), (False, True), (True, True), (False, False)])
def test_forwarding(comes: bool, goes: bool) -> None:
    """From a tunnel or to one: never."""
    ends = ip_address("198.51.100.1"), ip_address("192.0.2.10")
    packet = Packet(*ends, iifgroup=LINK_GROUP * comes, oifgroup=LINK_GROUP * goes)

    verdict = judge(ruleset(REQUEST), packet, "forward")

    assert verdict.accepted == (not comes and not goes)
    assert list(verdict.counts) == ([("forward", "")] if comes or goes else [])
