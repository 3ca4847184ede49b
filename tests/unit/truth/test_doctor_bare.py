"""What the doctor says of what comes without a tunnel: marked packets, and those that come as they are."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from dsr_agent.kernel.headers import CapturedPacket, arriving
from dsr_agent.state.errors import Unsupported
from dsr_agent.state.local import LocalAddress, LocalOf
from dsr_agent.state.model import Link, SysctlKey
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.table import ObservedGuard
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage
from dsr_agent.truth.doctor.walk import Diagnosis, diagnose
from dsr_agent.truth.probe import Pair
from tests.unit.truth.kinds import (
    CLIENTS,
    HERES,
    OTHERS,
    VIPS,
    World,
    datagram,
    first,
    header,
    request,
    told,
    tunnel,
)

# --- without a tunnel -------------------------------------------------------------------------------------------------

DSCP = World((tunnel("dscp"),), codes=(7, 7))


def marked(version: int, code: int, port: int = 1812, to: str = "") -> CapturedPacket:
    found = arriving("eth0", header(CLIENTS[version], to or HERES[version], 17, datagram(port, b"x"), code))
    assert found
    return found


def stages_of(found: Diagnosis, version: int = 4) -> dict[Stage, Finding]:
    return {each.stage: each for each in found.vips[ip_address(VIPS[version])]}


def test_marked_packets_are_counted_for_their_vip() -> None:
    made = DSCP.evidence(marked(4, 7), marked(6, 7), marked(6, 7))
    found = diagnose(made)
    assert told(found) == []
    assert stages_of(found)[Stage.ARRIVING].saw == "1 packet with code point 7 from clients in 3 s"
    assert stages_of(found, 6)[Stage.ARRIVING].saw == "2 packets with code point 7 from clients in 3 s"
    assert stages_of(found)[Stage.TUNNEL].saw == "the rules that write VIPs back are in place"
    (asked,) = made.sent_to[ip_address(VIPS[4])]
    assert asked.inner
    assert (asked.inner.source, asked.inner.service) == (ip_address(CLIENTS[4]), "udp/1812")


@pytest.mark.parametrize("version", [4, 6])
def test_a_code_point_that_is_not_declared(version: int) -> None:
    other = 10 - version
    found = diagnose(DSCP.evidence(marked(version, 9), marked(other, 7)))
    assert told(found) == [("balancer_sends_code_point", "dsr-dscp")]
    assert first(found).saw == f"udp/1812 comes to {HERES[version]} with code point 9; the file says 7"
    assert (
        f"write dscp = 9 in [[vip]] {VIPS[version]}, or have the load balancer write 7 (TOS 28)" == first(found).remedy
    )
    assert first(found).vip == ip_address(VIPS[version])


def test_code_points_of_others_are_none_of_its_business() -> None:
    ssh = replace(marked(4, 18, port=22), protocol=6)
    found = diagnose(DSCP.evidence(ssh, marked(6, 7), marked(4, 9, to=OTHERS[4], port=53)))
    assert told(found) == [("nothing_arrives", "dsr-dscp")]
    assert "nothing with code point 7 came to 10.0.0.2" in first(found).saw
    assert "'ip[1] & 0xfc = 28'" in first(found).remedy


def test_without_the_rules_nobody_writes_vips_back() -> None:
    made = DSCP.evidence(marked(4, 7), marked(6, 7), observed=replace(DSCP.observed(), guard=ObservedGuard()))
    assert (first(diagnose(made)).cause, first(diagnose(made)).stage) == (Cause.TUNNEL_MISSING, Stage.TUNNEL)
    assert first(diagnose(made)).remedy == "dsr-agent apply"


@pytest.mark.parametrize(("works", "cause"), [(False, Cause.TUNNEL_OTHER), (True, Cause.GUARD_OTHER)])
def test_rules_that_were_changed(works: bool, cause: Cause) -> None:
    observed = DSCP.observed()
    assert observed.guard.table
    table = replace(observed.guard.table, strangers=frozenset({("flag", "dormant")}))
    sights = {Pair(ip_address(VIPS[4]), "dsr-dscp"): Sight(Seen.ARRIVED, "lo")} if works else {}
    made = DSCP.evidence(
        marked(4, 7), marked(6, 7), observed=replace(observed, guard=ObservedGuard(table)), sights=sights
    )
    assert first(diagnose(made)).cause is cause


def test_without_nftables_there_is_no_code_point() -> None:
    guard = ObservedGuard(unavailable=Unsupported("no nftables", "install it"))
    found = diagnose(DSCP.evidence(observed=replace(DSCP.observed(), guard=guard)))
    assert (first(found).cause, first(found).remedy) == (Cause.GUARD_UNAVAILABLE, "install it")


def test_marked_packets_to_an_address_that_is_gone() -> None:
    world = World((tunnel("dscp", local=LocalAddress(IPv4Address("10.0.0.77"))),), codes=(7, None))
    assert told(diagnose(world.evidence()))[0] == ("local_missing", "dsr-dscp")


L2 = World((tunnel("l2"),))


def plain(version: int) -> CapturedPacket:
    found = arriving("eth0", request(version))
    assert found
    return found


def test_what_comes_over_the_segment_is_counted() -> None:
    found = diagnose(L2.evidence(plain(4), plain(6), plain(6)))
    assert told(found) == []
    assert stages_of(found, 6)[Stage.ARRIVING].saw == "2 packets from clients in 3 s"


def test_nothing_comes_over_the_segment() -> None:
    found = diagnose(L2.evidence(plain(6)))
    assert told(found) == [("nothing_arrives", "dsr-l2")]
    assert "tcpdump -ni any ip and dst host 192.0.2.10" in first(found).remedy


@pytest.mark.parametrize(
    ("card", "cause", "why"),
    [
        (Link("eth0", up=False), Cause.CARD_DOWN, "eth0 is down"),
        (Link("eth0", up=True, carrier=False), Cause.NO_CARRIER, "eth0 has no carrier"),
    ],
)
@pytest.mark.parametrize("kind", ["dscp", "l2"])
def test_nothing_comes_by_a_card_that_hears_nothing(kind: str, card: Link, cause: Cause, why: str) -> None:
    made = (DSCP if kind == "dscp" else World((replace(tunnel("l2"), local=LocalOf("eth0")),))).evidence()
    links = {**made.observed.links, "eth0": replace(card, answers_arp=True)}
    found = diagnose(replace(made, observed=replace(made.observed, links=links)))
    assert {each.cause for each in found.causes if each.blocks} == {cause}
    assert all(each.saw.endswith(f"in 3 s: {why}") for each in found.causes if each.blocks)
    assert all("eth0" in each.remedy for each in found.causes if each.blocks)


def test_a_vip_of_a_segment_that_is_gone_and_arp_that_is_answered() -> None:
    observed = L2.observed()
    addresses = {key: each for key, each in observed.addresses.items() if str(key.ip) != VIPS[4]}
    found = diagnose(L2.evidence(plain(4), plain(6), observed=replace(observed, addresses=addresses)))
    assert first(found).cause is Cause.VIP_MISSING
    values = {**observed.sysctls, SysctlKey("net/ipv4/conf/all/arp_ignore"): 0}
    found = diagnose(L2.evidence(plain(4), plain(6), observed=replace(observed, sysctls=values)))
    assert (first(found).cause, first(found).remedy) == (Cause.ARP_ANSWERS, "sysctl -w net/ipv4/conf/all/arp_ignore=1")


def test_a_segment_that_is_not_there() -> None:
    found = diagnose(World((tunnel("l2", local=LocalOf("eth7")),)).evidence(plain(4), plain(6)))
    assert told(found) == [("local_missing", "dsr-l2")]
    assert first(found).remedy == "correct local in [[tunnel]] dsr-l2"


def test_nothing_is_said_of_headers_where_there_are_none() -> None:
    for world in (DSCP, L2):
        stages: set[Stage] = set(stages_of(diagnose(world.evidence())))
        assert not stages & {Stage.MODULE, Stage.MTU, Stage.REVERSE_PATH}
