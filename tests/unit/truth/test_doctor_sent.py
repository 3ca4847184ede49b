"""What the doctor says of what load balancers send, over IPv4 and IPv6, from packets written down byte by byte."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from dsr_agent.guard.outer import counted_in
from dsr_agent.guard.sets import element
from dsr_agent.kernel.headers import CapturedPacket, arriving
from dsr_agent.kernel.trace import ForeignDrop
from dsr_agent.state.count import Count
from dsr_agent.state.model import (
    Tunnel,
)
from dsr_agent.truth.doctor.causes import Cause, Stage, StageResult
from dsr_agent.truth.doctor.evidence import Counters
from dsr_agent.truth.doctor.walk import diagnose
from tests.unit.truth.kinds import (
    BALANCERS,
    HERES,
    KINDS,
    OTHERS,
    PORT,
    STRANGERS,
    VIPS,
    World,
    datagram,
    first,
    header,
    sent,
    told,
    tunnel,
)

# --- what arrives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_what_is_declared_is_well(kind: str, version: int, inner: int) -> None:
    name = tunnel(kind, version).name
    found = diagnose(World((tunnel(kind, version),)).evidence(*[sent(kind, version, inner)] * 2))
    assert told(found) == []
    stages = {each.stage: each for each in found.vips[ip_address(VIPS[inner])]}
    assert stages[Stage.ARRIVING].saw == f"2 packets from {BALANCERS[version]} in 3 s"
    assert stages[Stage.ARRIVING].tunnel == name
    assert (stages[Stage.MODULE].result, stages[Stage.TUNNEL].result) == (StageResult.OK, StageResult.OK)


OTHER = "balancer_sends_other"
SENT: list[tuple[str, Tunnel, CapturedPacket, str, str, str]] = [
    (
        "gue to a fou tunnel",
        tunnel("fou"),
        sent("gue", 4),
        OTHER,
        "sends GUE to port 6080",
        'encapsulation = "gue" and port',
    ),
    (
        "fou to a gue tunnel",
        tunnel("gue"),
        sent("fou", 4),
        OTHER,
        "sends FOU",
        'write encapsulation = "fou" and port = 6080',
    ),
    (
        "ipip to a gue tunnel",
        tunnel("gue"),
        sent("ipip", 4),
        OTHER,
        "sends IPIP; the file says gue",
        '"ipip" in [[tunnel]] dsr-gue (without port)',
    ),
    ("6in4 to a gre tunnel", tunnel("gre"), sent("ipip", 4, 6), OTHER, "sends 6in4", 'write encapsulation = "ipip" in'),
    (
        "gre to an ipip tunnel",
        tunnel("ipip"),
        sent("gre", 4, key=7, checksum=True),
        OTHER,
        "sends GRE",
        '"gre" and key = 7 and checksum = true in',
    ),
    (
        "ipip to a keyed gre tunnel",
        tunnel("gre", key=3),
        sent("ipip", 4),
        OTHER,
        "sends IPIP",
        '"ipip" in [[tunnel]] dsr-gre (without key)',
    ),
    (
        "gue to an ipip tunnel",
        tunnel("ipip"),
        sent("gue", 4, port=5555),
        OTHER,
        "sends GUE to port 5555",
        '"gue" and port = 5555 in',
    ),
    (
        "gue to a fou tunnel, IPv6",
        tunnel("fou", 6),
        sent("gue", 6, 6),
        OTHER,
        "sends GUE over IPv6 to port 6080",
        '"gue" and port = 6080 in',
    ),
    (
        "ipip to a gre tunnel, IPv6",
        tunnel("gre", 6),
        sent("ipip", 6, limit=True),
        OTHER,
        "sends IPIP over IPv6",
        '"ipip" in [[tunnel]] dsr-gre6',
    ),
    (
        "a key, IPv6",
        tunnel("gre", 6),
        sent("gre", 6, key=9),
        "balancer_sends_key",
        "sends GRE over IPv6 with key 9",
        "write key = 9 in [[tunnel]] dsr-gre6",
    ),
    (
        "no key, IPv6",
        tunnel("gre", 6, key=7),
        sent("gre", 6, 6),
        "balancer_sends_key",
        "without a key",
        "remove the key in",
    ),
    (
        "a checksum, IPv6",
        tunnel("gre", 6),
        sent("gre", 6, checksum=True, limit=True),
        "balancer_sends_checksum",
        "with a checksum",
        "checksum = true in",
    ),
    (
        "gue to another port",
        tunnel("gue"),
        sent("gue", 4, port=6081),
        "balancer_sends_port",
        "port 6081; the file says port 6080",
        "write port = 6081 in [[tunnel]] dsr-gue",
    ),
    (
        "fou to another port, IPv6",
        tunnel("fou", 6),
        sent("fou", 6, 6, port=5555),
        "balancer_sends_port",
        "to port 5555",
        "write port = 5555 in [[tunnel]] dsr-fou6",
    ),
    (
        "gue elsewhere",
        tunnel("gue"),
        sent("gue", 4, to=OTHERS[4]),
        "balancer_sends_elsewhere",
        f"sends to {OTHERS[4]}",
        f'write local = "{OTHERS[4]}"',
    ),
    (
        "ipip elsewhere, IPv6",
        tunnel("ipip", 6),
        sent("ipip", 6, to=OTHERS[6]),
        "balancer_sends_elsewhere",
        f"sends to {OTHERS[6]}",
        f'write local = "{OTHERS[6]}"',
    ),
    (
        "gue of a stranger",
        tunnel("gue"),
        sent("gue", 4, source=STRANGERS[4]),
        "guard_refuses_source",
        "no declared load balancer",
        f'add "{STRANGERS[4]}" to',
    ),
    (
        "gre of a stranger, IPv6",
        tunnel("gre", 6),
        sent("gre", 6, 6, source=STRANGERS[6]),
        "guard_refuses_source",
        "sends GRE over IPv6 and is",
        f'add "{STRANGERS[6]}" to',
    ),
    (
        "ipip over IPv6, not IPv4",
        tunnel("ipip"),
        sent("ipip", 6),
        OTHER,
        "the file says ipip over IPv4 only",
        f'add a [[tunnel]] with encapsulation = "ipip" and load_balancers = ["{BALANCERS[6]}"]',
    ),
    (
        "gue over IPv4, not IPv6",
        tunnel("gue", 6),
        sent("gue", 4, 6),
        OTHER,
        "the file says gue over IPv6 only",
        'encapsulation = "gue" and port = 6080 and load_balancers',
    ),
]


@pytest.mark.parametrize("case", SENT, ids=lambda case: case[0])
def test_what_is_sent_and_not_declared_is_named_with_what_to_write(
    case: tuple[str, Tunnel, CapturedPacket, str, str, str],
) -> None:
    _, declared, packet, cause, saw, remedy = case
    found = diagnose(World((declared,)).evidence(packet, packet))
    assert told(found) == [(cause, declared.name)]
    assert (first(found).result, saw in first(found).saw) == (StageResult.FAULT, True), first(found)
    assert remedy in first(found).remedy, first(found)
    assert "2 packets captured in 3 s" in first(found).evidence


def test_udp_that_is_no_packet_at_the_tunnels_port() -> None:
    packet = arriving("eth0", header(BALANCERS[4], HERES[4], 17, datagram(PORT, b"\x08\0\0\0vxlan, say")))
    assert packet
    found = diagnose(World((tunnel("gue"),)).evidence(packet))
    assert told(found) == [(OTHER, "dsr-gue")]
    assert "sends what is neither GUE nor FOU to port 6080" in first(found).saw
    assert first(found).remedy == "have the load balancer send gue"


def test_udp_of_a_balancer_that_has_nothing_to_do_with_it() -> None:
    dns = arriving("eth0", header(BALANCERS[4], HERES[4], 17, datagram(53, b"\x08\0\0\0a question")))
    assert dns
    found = diagnose(World((tunnel("gue"),)).evidence(dns))
    assert told(found) == [("nothing_arrives", "dsr-gue")]
    assert (
        f"no GUE from any load balancer in 3 s, though {BALANCERS[4]} reaches this host otherwise" in first(found).saw
    )


@pytest.mark.parametrize(
    ("kind", "version", "what", "how"),
    [
        ("ipip", 4, "let protocol 4 and 41 pass", "tcpdump -ni eth0 ip proto 4 or ip proto 41"),
        ("ipip", 6, "let next header 4 and 41 pass", "ip6 protochain 4 or ip6 protochain 41"),
        ("gre", 6, "let next header 47 pass", "tcpdump -ni eth0 ip6 protochain 47"),
        ("gue", 4, "let UDP port 6080 pass", "tcpdump -ni eth0 ip and udp dst port 6080"),
        ("fou", 6, "let UDP port 6080 pass", "ip6 and udp dst port 6080"),
    ],
)
def test_nothing_arrives(kind: str, version: int, what: str, how: str) -> None:
    found = diagnose(World((tunnel(kind, version),)).evidence())
    assert told(found) == [("nothing_arrives", tunnel(kind, version).name)]
    assert (first(found).result, what in first(found).remedy, how in first(found).remedy) == (
        StageResult.WARNING,
        True,
        True,
    )


def test_of_several_tunnels_the_closest_is_told() -> None:
    """Else one key that differs would be a fault of all of them."""
    world = World((tunnel("ipip"), tunnel("gre", key=7), tunnel("gue"), tunnel("gre", 6)))
    packets = [sent("ipip", 4), sent("gre", 4, key=8), sent("gue", 4, port=6081), sent("gre", 6, checksum=True)]
    assert told(diagnose(world.evidence(*packets))) == [
        ("balancer_sends_key", "dsr-gre"),
        ("balancer_sends_checksum", "dsr-gre6"),
        ("balancer_sends_port", "dsr-gue"),
    ]


def test_another_tunnel_is_to_be_added_where_this_one_is_used() -> None:
    found = diagnose(World((tunnel("ipip"),)).evidence(sent("ipip", 4), sent("gre", 4, 6)))
    assert first(found).remedy.startswith('add a [[tunnel]] with encapsulation = "gre" for it')


@pytest.mark.parametrize(
    ("declared", "packet"),
    [(tunnel("fou"), sent("gue", 4)), (tunnel("gue"), sent("ipip", 4, 6)), (tunnel("gue", 6), sent("fou", 6, 6))],
    ids=["gue to fou", "6in4 to gue", "fou to gue over IPv6"],
)
def test_what_the_kernel_takes_where_nobody_guards_is_a_warning(declared: Tunnel, packet: CapturedPacket) -> None:
    """The kernel's port takes both forms, and its link both ways."""
    found = diagnose(World((declared,), guarded=False, guard=None).evidence(packet))
    assert told(found) == [(OTHER, declared.name)]
    assert (first(found).result, found.fine) == (StageResult.WARNING, True)
    guarded = diagnose(World((declared,)).evidence(packet))
    assert not guarded.fine


def test_what_comes_over_ipv6_from_anybody_is_no_fault_of_a_tunnel_that_is_used() -> None:
    found = diagnose(World((tunnel("ipip"),)).evidence(sent("ipip", 4), sent("ipip", 6, source=STRANGERS[6])))
    assert (first(found).cause, first(found).result) == (Cause.BALANCER_SENDS_OTHER, StageResult.WARNING)


def test_a_tunnel_open_to_anybody_takes_its_own_version_only() -> None:
    declared = tunnel("ipip", load_balancers=())
    assert told(diagnose(World((declared,)).evidence(sent("ipip", 4, source=STRANGERS[4])))) == []
    found = diagnose(World((declared,)).evidence(sent("ipip", 6)))
    assert told(found) == [(OTHER, "dsr-ipip")]


def test_what_the_guard_counts_over_ipv6_stands_for_what_cannot_be_seen() -> None:
    place = counted_in("dsr-gue6", 128, 6), element(ip_address(BALANCERS[6]))
    made = World((tunnel("gue", 6),)).evidence(
        captured=None, uncaptured="needs root", after=Counters(guard={place: Count(9, 900)})
    )
    stages = {each.stage: each for each in diagnose(made).vips[ip_address(VIPS[4])]}
    assert stages[Stage.ARRIVING].saw == "the guard has let in 9 packets in 3 s"
    assert f"the guard has let in 9 packets from {BALANCERS[6]} in all" in stages[Stage.ARRIVING].evidence


def test_a_silent_balancer_over_ipv6_is_named() -> None:
    two = tunnel("ipip", 6, load_balancers=(ip_network(BALANCERS[6]), ip_network("2001:db8:7::/48")))
    found = diagnose(World((two,)).evidence(sent("ipip", 6)))
    assert told(found) == [("balancer_silent", "dsr-ipip6")]
    assert "nothing came from 2001:db8:7::/48" in first(found).saw


def test_who_drops_udp_or_ipv6_at_the_card() -> None:
    drop = ForeignDrop("inet", "fw", "input", "its policy", "", BALANCERS[4], HERES[4])
    drop = replace(drop, packet=f"UDP from {BALANCERS[4]} to {HERES[4]}")
    found = diagnose(World((tunnel("gue"),)).evidence(sent("gue", 4), drops=(drop,)))
    assert first(found).cause is Cause.FIREWALL_DROPS
    drop = replace(drop, packet=f"protocol 60 from {BALANCERS[6]} to {HERES[6]}", source=BALANCERS[6], target=HERES[6])
    found = diagnose(World((tunnel("ipip", 6),)).evidence(sent("ipip", 6, limit=True), drops=(drop,)))
    assert first(found).cause is Cause.FIREWALL_DROPS
    assert f"ip6 saddr {BALANCERS[6]} ip6 daddr {HERES[6]} accept" in first(found).remedy
