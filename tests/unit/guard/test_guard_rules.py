"""The guard's rules against its promise, for any file and any packet."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.ruleset import PRIORITY, Request, ruleset
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import GRE, IPIP, TCP, Packet, gre, outer, ports
from tests.unit.guard.specification import Expected, expected
from tests.unit.guard.strategies import KEYS, LOCALS, NETWORKS, SENDERS, VIPS, arriving, decapsulated, requests

REASONS = [str(reason) for reason in RefusalReason]


def assert_as_promised(request: Request, packet: Packet) -> Expected:
    """*packet* gets in if it may, is refused for the right reason if not, and is counted once and in one place."""
    promised = expected(request, packet)
    verdict = judge(ruleset(request), packet)
    assert verdict.accepted == (promised.reason is None)
    place = (str(promised.reason), "") if promised.reason else promised.counted
    assert verdict.counts == Counter([place] if place else [])
    return promised


thorough = settings(max_examples=5 * settings().max_examples)


@thorough
@given(arriving())
def test_what_arrives_is_let_in_if_a_declared_balancer_wrapped_it_as_declared(found: tuple[Request, Packet]) -> None:
    """And all else that is wrapped and meant for a tunnel's address is not; the rest of the host is left alone."""
    assert_as_promised(*found)


@thorough
@given(decapsulated())
def test_what_comes_out_of_a_tunnel_is_from_a_client_and_to_a_vip(found: tuple[Request, Packet]) -> None:
    """And to one of its services, if it declares any."""
    promised = assert_as_promised(*found)
    assert promised != Expected(), "nothing comes out of a tunnel unseen"


@given(arriving(), st.booleans(), st.booleans())
def test_nothing_is_forwarded_from_or_to_a_tunnel(found: tuple[Request, Packet], comes: bool, goes: bool) -> None:
    """Whatever it is; and what is forwarded between other links is not our business."""
    request, packet = found
    on_its_way = replace(packet, iifgroup=LINK_GROUP * comes, oifgroup=LINK_GROUP * goes)

    verdict = judge(ruleset(request), on_its_way, "forward")

    assert verdict.accepted == (not comes and not goes)
    assert verdict.counts == Counter({(str(RefusalReason.FORWARD), ""): int(comes or goes)}) - Counter()


@given(st.sampled_from(KEYS), st.sampled_from(KEYS), st.booleans(), st.booleans(), st.sampled_from(SENDERS))
def test_a_balancer_of_one_gre_tunnel_does_not_get_in_with_the_key_of_another(
    mine: int | None, theirs: int | None, first: bool, second: bool, source: Ip
) -> None:
    """Both tunnels are at the same address; only the other's balancers know the other's key, or so it should be."""
    one = Entrance("one", LOCALS[0], GRE, (NETWORKS[3],), mine, first)
    other = Entrance("other", LOCALS[0], GRE, (NETWORKS[5],), theirs, second)
    request = Request((one, other))

    for entrance in (one, other):
        promised = assert_as_promised(
            request, Packet(source, LOCALS[0], GRE, gre(entrance.key, checksum=entrance.checksum))
        )

        own = any(source in network for network in entrance.senders)
        if (mine, first) != (theirs, second):
            assert (promised.reason is None) == own


@given(requests(), st.integers(0, 255), st.sampled_from(VIPS), st.booleans())
def test_clients_are_told_of_segments_that_fit_when_wrapped(
    request: Request, flags: int, source: Ip, from_vip: bool
) -> None:
    """In the answer to their first packet (SYN and ACK), from a VIP, and in nothing else."""
    answer = bytearray(ports(40000, 80))
    answer[13] = flags
    sender = source if from_vip else source + 1000
    verdict = judge(ruleset(request), Packet(sender, source, TCP, bytes(answer)), "output")

    told = source.version in request.mss and sender in {target.ip for target in request.vips} and flags & 0x12 == 0x12
    assert verdict.mss == (request.mss[source.version] if told else None)
    assert verdict.accepted
    assert not verdict.counts


@given(requests())
def test_the_table_has_what_its_rules_name_and_a_counter_for_each_reason(request: Request) -> None:
    """The chains meet packets before connection tracking does, and refuse nobody by policy."""
    table = ruleset(request)

    assert set(REASONS) <= table.counters
    assert table.chains["entrance"].place == ("prerouting", PRIORITY, "filter", "accept")
    assert table.chains["forward"].place == ("forward", PRIORITY, "filter", "accept")
    assert PRIORITY < -300, "before connection tracking and what firewalls call raw"
    assert ("answers" in table.chains) == bool(request.mss)
    assert not table.strangers


@given(requests())
def test_what_is_asked_for_twice_is_there_once(request: Request) -> None:
    """The same request is the same table, so a host that is in sync is not written again."""
    assert ruleset(request) == ruleset(replace(request, entrances=request.entrances * 2))


def test_a_tunnel_called_like_another_ones_network() -> None:
    """Names are the operator's: "web" with a network of 16 bits, and "web-16"."""
    web = Entrance("web", LOCALS[0], IPIP, (IPv4Network("10.1.0.0/16"),))
    other = Entrance("web-16", LOCALS[1], IPIP, (IPv4Network("192.168.7.7"),))
    request = Request((web, other))

    for source, local in (("10.1.0.5", LOCALS[0]), ("192.168.7.7", LOCALS[1]), ("192.168.7.7", LOCALS[0])):
        assert_as_promised(request, outer(source, str(local)))


def test_a_stranger_where_another_encapsulation_is_open_to_anybody() -> None:
    """He is declared nowhere: whoever else is declared somewhere."""
    open_ = Entrance("open", LOCALS[0], GRE, ())
    entrances = Entrance("ipip", LOCALS[0], IPIP, (IPv4Network("10.1.0.6"),)), open_
    another = Entrance("another", LOCALS[1], IPIP, (IPv4Network("10.1.0.7"),))

    for request in (Request((*entrances, another)), Request(entrances)):
        assert assert_as_promised(request, outer("10.1.0.5", str(LOCALS[0]))).reason == RefusalReason.SOURCE


def test_a_tunnel_on_its_way_to_another_encapsulation_has_two_entrances_that_share_their_senders() -> None:
    """For that while; strangers stay outside."""
    old = Entrance("web", LOCALS[0], IPIP, (IPv4Network("10.1.0.5"),))
    new = Entrance("web", LOCALS[0], GRE, (IPv4Network("10.1.0.6"),))
    table = ruleset(Request((new, old)))

    for protocol in (IPIP, GRE):
        packets = [outer(source, str(LOCALS[0]), protocol, gre()) for source in ("10.1.0.5", "10.1.0.6", "10.1.0.7")]
        assert [judge(table, packet).accepted for packet in packets] == [True, True, False]
