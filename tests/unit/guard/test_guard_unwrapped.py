"""What comes without an outer header, against its promise: any file, and any packet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings

from dsr_agent.guard.marked import Marked, Unwrapped, chains
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.ruleset import Request, ruleset, unguarded
from dsr_agent.guard.sets import element
from dsr_agent.state.marks import LINK_GROUP, PROBE_MARK
from dsr_agent.state.model import Ip
from tests.unit.guard.interpreter import Place, judge
from tests.unit.guard.packets import GRE, ICMP, ICMPV6, IPIP, SIX_IN_FOUR, UDP, Packet, ports
from tests.unit.guard.specification import NOBODYS
from tests.unit.guard.strategies import CLIENTS, LOCALS, UDP_PORTS, VIPS, bare

thorough = settings(max_examples=5 * settings().max_examples)


@dataclass(frozen=True)
class Fate:
    """Where a packet goes on to, where it is counted, and why it goes nowhere."""

    to: Ip | None = None
    counted: Place | None = None
    reason: RefusalReason | None = None


def fate(request: Request, packet: Packet) -> Fate:
    """What is promised, said without a rule."""
    of = request.unwrapped
    if packet.iifname == "lo" and packet.mark != PROBE_MARK:
        return Fate()
    meant = _meant(of, packet)
    if meant is None:
        plain = packet.destination in of.plain and packet.iifgroup != LINK_GROUP
        counted = (f"plain{packet.version}", element(packet.destination)) if plain else None
        return Fate(counted=counted)
    if packet.source in request.own or any(packet.source in bad for bad in NOBODYS if bad.version == packet.version):
        return Fate(meant.vip, reason=RefusalReason.INNER_SOURCE)
    if meant.services and not _serves(meant, packet):
        return Fate(meant.vip, reason=RefusalReason.SERVICE)
    return Fate(meant.vip, (f"marked{packet.version}", element(meant.vip)))


def _meant(of: Unwrapped, packet: Packet) -> Marked | None:
    wrapped = packet.protocol in (IPIP, SIX_IN_FOUR, GRE)
    in_udp = packet.protocol == UDP and not packet.later and len(packet.transport) >= 4
    if in_udp and (packet.destination, int.from_bytes(packet.transport[2:4], "big")) in of.ports:
        wrapped = True
    at = dict(of.arrivals)
    for item in of.marked:
        if item.dscp == packet.dscp and item.vip.version == packet.version and packet.destination in at[item.tunnel]:
            return None if wrapped else item
    return None


def _serves(meant: Marked, packet: Packet) -> bool:
    if packet.later or packet.protocol == (ICMP if packet.version == 4 else ICMPV6):
        return True
    asked = {"tcp": 6, "udp": UDP}
    found = [service.split("/") for service in meant.services]
    return len(packet.transport) >= 4 and any(
        (asked[transport], int(port)) == (packet.protocol, int.from_bytes(packet.transport[2:4], "big"))
        for transport, port in found
    )


@thorough
@given(bare())
def test_a_marked_packet_gets_its_vip_and_nothing_else_is_touched(found: tuple[Request, Packet]) -> None:
    request, packet = found
    if packet.iifgroup == LINK_GROUP:  # out of a tunnel: that is the other rules' business
        packet = replace(packet, iifgroup=0)
    promised, verdict = fate(request, packet), judge(ruleset(request), packet)

    assert verdict.destination == promised.to
    assert verdict.accepted == (promised.reason is None)
    place = (str(promised.reason), "") if promised.reason else promised.counted
    assert verdict.counts == Counter([place] if place else [])


@thorough
@given(bare())
def test_without_a_guard_it_gets_its_vip_too(found: tuple[Request, Packet]) -> None:
    """Whoever sent it, and whatever it asks for; nothing is refused, nor counted."""
    request, packet = found
    marked = None if packet.iifname == "lo" else _meant(request.unwrapped, packet)
    verdict = judge(unguarded(request.unwrapped), packet)

    assert (verdict.accepted, verdict.counts) == (True, Counter())
    assert verdict.destination == (marked.vip if marked else None)


@given(bare())
def test_what_is_marked_is_never_forwarded(found: tuple[Request, Packet]) -> None:
    """If its VIP is away, it would go back to the balancer; what else is forwarded is not our business."""
    request, packet = found
    packet = replace(packet, iifgroup=0)
    of = request.unwrapped.marked
    meant = any((item.vip, item.dscp) == (packet.destination, packet.dscp) for item in of)

    assert judge(ruleset(request), packet, "forward").accepted == (not meant)


@pytest.mark.parametrize("source", [client for client in CLIENTS if client.version == 4])
def test_the_self_test_gets_through_and_counts_nowhere(source: Ip) -> None:
    """From one of its own addresses, over lo and with its mark; any other packet with that mark is asked like all."""
    request = Request(
        (), own=frozenset(VIPS), unwrapped=Unwrapped((Marked("d", 7, VIPS[0]),), (("d", frozenset(LOCALS)),))
    )
    packet = Packet(source, LOCALS[0], UDP, ports(40000), iifname="lo", mark=PROBE_MARK, dscp=7)

    verdict = judge(ruleset(request), packet)
    assert (verdict.accepted, verdict.destination) == (True, VIPS[0])
    itself = str(source) in ("192.0.2.1", "198.51.100.1", "203.0.113.1")
    assert bool(verdict.counts) is not itself
    assert judge(ruleset(request), replace(packet, iifname="eth0")).counts == Counter(
        {("marked4", element(VIPS[0])): 1}
    )


def test_there_is_one_rule_for_each_code_point() -> None:
    """A map from code points compiles to one that never matches, in nftables 1.1.3."""
    every = tuple(Marked("d", code, VIPS[0]) for code in range(1, 64))
    rules = dict(chains(Unwrapped(every, (("d", frozenset(LOCALS)),)), guarded=True))["marked4"].rules
    assert len(rules) == 63
    assert not any('"map"' in rule for rule in rules)


def test_wrapped_packets_with_the_code_point_are_left_to_their_tunnel() -> None:
    """IPVS gives the outer header the inner one's DSCP."""
    at = (("d", frozenset(LOCALS)),)
    of = Unwrapped((Marked("d", 7, VIPS[0]),), at, ports=((LOCALS[0], UDP_PORTS[0]),))
    for protocol, transport in ((IPIP, b"\x45"), (GRE, bytes(4)), (UDP, ports(UDP_PORTS[0]))):
        packet = Packet(CLIENTS[0], LOCALS[0], protocol, transport, dscp=7)
        assert judge(unguarded(of), packet).destination is None
    assert judge(unguarded(of), Packet(CLIENTS[0], LOCALS[1], UDP, ports(UDP_PORTS[0]), dscp=7)).destination == VIPS[0]
