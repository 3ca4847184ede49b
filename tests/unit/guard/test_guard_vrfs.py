"""A packet of a VRF meets the rules twice: as it arrives, and as if it came by the VRF's own link."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.marked import Marked, Unwrapped
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.ruleset import Request, ruleset, unguarded
from dsr_agent.state.marks import LINK_GROUP, PROBE_MARK
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import IPIP, UDP, Packet, ports

LOCAL, BALANCER, VIP, PLAIN = map(ip_address, ("10.0.3.2", "10.1.0.5", "192.0.2.10", "192.0.2.11"))
CLIENT, TESTER = ip_address("203.0.113.9"), ip_address("192.0.2.1")
BALANCERS = (ip_network("10.1.0.5"),)
UNWRAPPED = Unwrapped((Marked("d", 7, VIP),), (("d", frozenset({LOCAL})),), (PLAIN,))
REQUEST = Request(
    (Entrance("t", LOCAL, IPIP, BALANCERS),),
    (GuardedVip(VIP),),
    frozenset({LOCAL, VIP}),
    links=frozenset({"t"}),
    unwrapped=UNWRAPPED,
    in_vrfs=frozenset({"t"}),
    vrfs=True,
)
TABLE = ruleset(REQUEST)
OUTER = Packet(BALANCER, LOCAL, IPIP, b"\x45")
INNER = Packet(CLIENT, VIP, UDP, ports(1812), iifname="t", iifgroup=LINK_GROUP)


def handed_on(packet: Packet) -> Packet:
    """The same as the VRF sees it."""
    return replace(packet, iifname="blue", iifkind="vrf", iifgroup=0, sdifname=packet.iifname)


@pytest.mark.parametrize(
    "packet",
    [OUTER, replace(OUTER, source=CLIENT), INNER, replace(INNER, destination=LOCAL), Packet(CLIENT, PLAIN)],
    ids=str,
)
def test_the_second_time_nothing_is_asked_and_nothing_counted(packet: Packet) -> None:
    """What was refused the first time never comes a second time."""
    assert judge(TABLE, packet).counts
    again = judge(TABLE, handed_on(packet))
    assert (again.accepted, again.counts) == (True, Counter())


def test_what_this_host_sends_to_itself_there_is_asked() -> None:
    """It comes by the VRF's link the first time, too; no client and no balancer has an address of this host."""
    verdict = judge(TABLE, replace(OUTER, source=LOCAL, iifname="blue", iifkind="vrf"))
    assert (verdict.accepted, verdict.counts) == (False, Counter({("source", ""): 1}))


def test_the_self_test_gets_in_there() -> None:
    """By the VRF's link, as elsewhere by lo; and counts by its tunnel alone."""
    sent = replace(OUTER, mark=PROBE_MARK, iifname="blue", iifkind="vrf")
    assert (judge(TABLE, sent).accepted, judge(TABLE, sent).counts) == (True, Counter())
    came = replace(INNER, source=TESTER, mark=PROBE_MARK)
    assert judge(TABLE, came).counts == Counter({("self_test", '"t"'): 1})
    assert judge(TABLE, handed_on(came)).counts == Counter()


@pytest.mark.parametrize("table", [TABLE, unguarded(UNWRAPPED, vrfs=True)], ids=["guard", "no guard"])
def test_marked_packets_get_their_vip_as_they_arrive(table: object) -> None:
    """And the self-test's, which come by the VRF's link alone."""
    marked = Packet(CLIENT, LOCAL, UDP, ports(1812), dscp=7)
    for packet, vip in (
        (marked, VIP),
        (handed_on(marked), None),
        (replace(handed_on(marked), source=TESTER, mark=PROBE_MARK), VIP),
    ):
        assert judge(table, packet).destination == vip  # type: ignore[arg-type]


def test_nothing_out_of_a_tunnel_is_forwarded() -> None:
    """By then it comes by the VRF's link."""
    verdict = judge(TABLE, handed_on(INNER), "forward")
    assert (verdict.accepted, verdict.counts) == (False, Counter({("forward", ""): 1}))
    assert judge(TABLE, handed_on(replace(INNER, iifname="eth1")), "forward").accepted


def test_elsewhere_no_rule_is_about_vrfs() -> None:
    """They would cost each packet something."""
    table = ruleset(replace(REQUEST, in_vrfs=frozenset(), vrfs=False))
    assert not any(word in rule for chain in table.chains.values() for rule in chain.rules for word in ("vrf", "sdif"))
