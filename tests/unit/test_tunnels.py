"""What each encapsulation is carried by, what may be changed in place, and what stands in each other's way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from dsr_agent.state.local import LocalAddress
from dsr_agent.state.marks import LONGEST_NAME, label_for, owns_address, owns_link
from dsr_agent.state.model import Tunnel
from dsr_agent.tunnels import CARRIERS, PROTOCOLS_OF_KIND, carrier
from tests.fake.words import address_of, link_of

HERE = IPv4Address("10.0.3.2")


HERE6 = IPv6Address("2001:db8:3::2")


def tunnel(encapsulation: str, version: int = 4, *, port: int | None = None, **more: Any) -> Tunnel:
    """A tunnel of the file."""
    return Tunnel("t", encapsulation, LocalAddress(HERE), version=version, port=port, **more)


@pytest.mark.parametrize(
    ("declared", "link", "overhead"),
    [
        (tunnel("ipip"), "t sit local 10.0.3.2 down", 20),
        (tunnel("ipip", 6), "t ip6tnl local 2001:db8:3::2 down", 40),
        (tunnel("gre"), "t gre local 10.0.3.2 down", 24),
        (tunnel("gre", 6), "t ip6gre local 2001:db8:3::2 down", 44),
        (tunnel("gre", key=7), "t gre local 10.0.3.2 key 7 down", 28),
        (tunnel("gre", key=0), "t gre local 10.0.3.2 key 0 down", 28),
        (tunnel("gre", checksum=True), "t gre local 10.0.3.2 checksum down", 28),
        (tunnel("gre", 6, key=7, checksum=True), "t ip6gre local 2001:db8:3::2 key 7 checksum down", 52),
        (tunnel("gue", port=6080), "t sit local 10.0.3.2 down", 40),
        (tunnel("gue", 6, port=6080), "t ip6tnl local 2001:db8:3::2 down", 60),
        (tunnel("fou", port=5555), "t sit local 10.0.3.2 down", 28),
        (tunnel("fou", 6, port=5555), "t ip6tnl local 2001:db8:3::2 down", 48),
    ],
)
def test_the_link_that_carries_it_and_its_overhead(declared: Tunnel, link: str, overhead: int) -> None:
    """Local only: any balancer's address as the source."""
    means = carrier(declared)

    assert means.kinds[0] == link_of(link).kind
    assert means.outer(declared, HERE if declared.version == 4 else HERE6, means.kinds[0]) == link_of(link).outer
    assert means.overhead(declared) == overhead


def test_an_ipip_link_is_for_ipv4_alone_and_every_carrier_knows_its_protocols() -> None:
    """What the guard lets in by a link is what the link takes."""
    means = carrier(tunnel("ipip"))

    assert means.kinds == ("sit", "ipip")
    assert means.outer(tunnel("ipip"), HERE, "ipip") == link_of("t ipip local 10.0.3.2").outer
    for declared in (tunnel(kind, version) for kind in ("ipip", "gre") for version in (4, 6)):
        wrapped = {carrier(declared).protocol(inner) for inner in (4, 6)}
        assert wrapped == set(PROTOCOLS_OF_KIND[carrier(declared).kinds[0]])
    assert {carrier(tunnel(kind, port=1)).protocol(inner) for kind in ("gue", "fou") for inner in (4, 6)} == {17}


# found, same, can become, clashes: held against the link that is wanted
IPIP = [
    ("local 10.0.3.2", True, True, True),
    ("local 10.0.3.2 protocol 0", True, True, True),
    ("local 10.0.3.2 protocol 137", False, False, True),
    ("local 10.9.9.9", False, True, False),
    ("local any", False, True, False),
    ("local 10.0.3.2 remote 10.1.0.5", False, False, False),
    ("local 10.0.3.2 external", False, False, False),
]
SIT = [
    ("local 10.0.3.2", True, True, True),
    ("local 10.0.3.2 protocol 41", False, False, True),
    ("local 10.0.3.2 protocol 4", False, False, True),
    ("local 10.9.9.9", False, True, False),
    ("local 10.0.3.2 remote 10.1.0.5", False, False, False),
]
IP6TNL = [
    ("local 2001:db8:3::2", True, True, True),
    ("local 2001:db8:3::2 protocol 41", False, False, True),
    ("local 2001:db8:3::9", False, True, False),
]
GRE = [
    ("local 10.0.3.2 key 7 checksum", True, True, True),
    ("local 10.0.3.2 key 7", False, True, True),
    ("local 10.0.3.2 key 7 checksum sequence", False, True, True),
    ("local 10.0.3.2 key 8 checksum", False, True, False),
    ("local 10.0.3.2 checksum", False, True, False),
    ("local 10.9.9.9 key 7 checksum", False, True, False),
    ("local 10.0.3.2 remote 10.1.0.5 key 7 checksum", False, False, False),
    ("local 10.0.3.2 key 7 checksum external", False, False, False),
]
TABLE = [(("ipip", 4), "ipip", "local 10.0.3.2", found, tuple(verdict)) for found, *verdict in IPIP]
TABLE += [(("ipip", 4), "sit", "local 10.0.3.2", found, tuple(verdict)) for found, *verdict in SIT]
TABLE += [(("gue", 6), "ip6tnl", "local 2001:db8:3::2", found, tuple(verdict)) for found, *verdict in IP6TNL]
TABLE += [(("gre", 4), "gre", "local 10.0.3.2 key 7 checksum", found, tuple(verdict)) for found, *verdict in GRE]


@pytest.mark.parametrize(("carried", "kind", "wanted", "found", "verdict"), TABLE)
def test_a_link_that_is_there_held_against_what_is_wanted(
    carried: tuple[str, int], kind: str, wanted: str, found: str, verdict: tuple[bool, bool, bool]
) -> None:
    """Whether it takes the same packets, can be changed in place, or has its place in the kernel."""
    means = CARRIERS[carried]
    one, other = link_of(f"a {kind} {found}").outer, link_of(f"b {kind} {wanted}").outer
    assert one is not None
    assert other is not None

    assert (means.same(one, other), means.can_become(one, other), means.clashes(one, other)) == verdict


# --- marks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("192.0.2.10/32 ours", True),
        ("192.0.2.10/32 label lo:dsr", True),
        ("192.0.2.10/32 proto 213", True),
        ("2001:db8::10/128 ours", True),
        ("192.0.2.10/32", False),
        ("192.0.2.10/32 proto 3", False),
        ("192.0.2.10/32 label lo:0", False),
        ("2001:db8::10/128", False),
    ],
)
def test_either_mark_makes_an_address_ours(address: str, ours: bool) -> None:
    """The number, or the label that survives ``ip addr replace``."""
    assert owns_address(address_of(address, "lo")) == ours


@pytest.mark.parametrize(
    ("link", "ours"),
    [
        ("dsr-ipip ipip up ours", True),
        ("tun0 gre up adopted", True),
        ("dsr-ipip ipip up group 54741", True),
        ("dsr-ipip ipip up", False),
        ("dsr-ipip ipip up group 1", False),
        ("dsr-ipip ipip up alias 'dsr-agent: decapsulates for VIPs; removed by dsr-agent teardown'", False),
        ("eth0 arp up group 54741", False),
        ("dummy0 dummy up ours", False),
    ],
)
def test_the_group_makes_a_tunnel_ours_and_nothing_else(link: str, ours: bool) -> None:
    """An alias is for people, and a group alone never makes another kind of link ours."""
    assert owns_link(link_of(link)) == ours


@pytest.mark.parametrize(
    ("link", "label"), [("lo", "lo:dsr"), ("elevenchars", "elevenchars:dsr"), ("twelve-chars", "")]
)
def test_a_label_fits_the_kernel_or_there_is_none(link: str, label: str) -> None:
    """Fifteen characters."""
    assert label_for(link) == label
    assert len(label) <= LONGEST_NAME
