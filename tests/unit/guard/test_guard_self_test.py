"""The self-test's packets: let in without counting as anybody's, and no way in for others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given

from dsr_agent.guard.ruleset import ruleset
from dsr_agent.guard.selftest import COUNTED
from dsr_agent.state.marks import LINK_GROUP, PROBE_MARK
from dsr_agent.state.probe import ANYBODY, CLIENTS
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import GRE, IPIP, TCP, UDP, Packet, gre, outer, ports
from tests.unit.guard.strategies import arriving, decapsulated
from tests.unit.guard.test_guard_examples import REQUEST
from tests.unit.guard.test_guard_rules import assert_as_promised

TABLE = ruleset(replace(REQUEST, links=frozenset({"seven", "seven.new"})))


def ours(source: str, protocol: int = IPIP, transport: bytes = b"\x45") -> Packet:
    """One of the self-test's as it arrives, on this host's own ``lo``."""
    return replace(outer(source, "10.0.3.2", protocol, transport), iifname="lo", mark=PROBE_MARK)


def out(client: str, vip: str, link: str = "seven") -> Packet:
    """The same as it comes out of its tunnel, to a port that no service has."""
    addresses = ip_address(client), ip_address(vip)
    return Packet(*addresses, UDP, ports(40001), iifname=link, iifgroup=LINK_GROUP, mark=PROBE_MARK)


@pytest.mark.parametrize(
    "packet", [ours("10.1.0.5"), ours("10.1.0.5", GRE, gre(7)), ours("10.1.0.6", GRE, gre(8)), ours(str(ANYBODY[4]))]
)
def test_it_gets_in_and_counts_for_no_balancer(packet: Packet) -> None:
    verdict = judge(TABLE, packet)
    assert (verdict.accepted, verdict.counts) == (True, {})


@pytest.mark.parametrize(
    "vip", ["192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "2001:db8::10", "2001:db8::11"]
)
@pytest.mark.parametrize("link", ["seven", "seven.new"])
def test_it_comes_out_and_counts_for_no_vip_but_for_its_link(vip: str, link: str) -> None:
    for client in CLIENTS:
        if client.version == ip_address(vip).version:
            verdict = judge(TABLE, out(str(client), vip, link))
            assert (verdict.accepted, verdict.counts) == (True, {(COUNTED, f'"{link}"'): 1})


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (ours("203.0.113.9"), "source"),
        (replace(ours("203.0.113.9"), iifname="eth0"), "source"),
        (replace(out("192.0.2.1", "192.0.2.99"), mark=0), "inner_destination"),
        (out("203.0.113.99", "192.0.2.99"), "inner_destination"),
        (replace(out("192.0.2.1", "192.0.2.99"), protocol=TCP), "inner_destination"),
        (out("192.0.2.1", "192.0.2.99", "not.ours"), "inner_destination"),
    ],
)
def test_what_only_looks_like_it_is_asked_for_like_any_other(packet: Packet, reason: str) -> None:
    verdict = judge(TABLE, packet)
    assert (verdict.accepted, verdict.counts) == (False, {(reason, ""): 1})


@given(arriving())
def test_the_mark_alone_lets_nothing_in_from_outside(found: tuple[object, Packet]) -> None:
    request, packet = found
    marked = replace(packet, mark=PROBE_MARK)
    assert judge(ruleset(request), marked) == judge(ruleset(request), packet)  # type: ignore[arg-type]


@given(decapsulated())
def test_nor_does_it_out_of_a_tunnel(found: tuple[object, Packet]) -> None:
    request, packet = found
    marked = replace(packet, mark=PROBE_MARK)
    if packet.source not in CLIENTS:
        assert_as_promised(request, marked)  # type: ignore[arg-type]
