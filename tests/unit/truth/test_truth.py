"""Which VIPs are tried through which tunnels, whose turn it is, and when a pair counts as fallen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.state.local import LocalAddress
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Link, Outer, Tunnel, Vip
from dsr_agent.state.probe import CLIENTS, PAYLOAD, Increase, Seen, Sight
from dsr_agent.truth.findings import said, suspect
from dsr_agent.truth.probe import Pair, Way, clients, pairs, shot
from dsr_agent.truth.reach import Reach, Reached
from dsr_agent.truth.rotation import Rotation
from tests.unit.service.reports import VIP1, VIP2, desired

HERE = IPv4Address("10.0.0.2")
ARRIVED, LOST, MISSING, UNKNOWN = (Sight(what) for what in (Seen.ARRIVED, Seen.LOST, Seen.NO_TUNNEL, Seen.UNKNOWN))


def pair(number: int) -> Pair:
    """One of many."""
    return Pair(ip_address(0xC6120000 + number), "t")


# --- which ------------------------------------------------------------------------------------------------------------


def way(encapsulation: str) -> Way:
    """A tunnel with its link."""
    tunnel = Tunnel(encapsulation, encapsulation, LocalAddress(HERE))
    outer = Outer(local=HERE, protocol=4 if encapsulation == "ipip" else 0)
    return Way(tunnel, Link(encapsulation, encapsulation, up=True, group=LINK_GROUP, outer=outer))


def test_every_vip_goes_with_each_of_its_tunnels_that_is_there() -> None:
    """A link of kind ipip takes no IPv6."""
    declared = desired()
    tunnels = {name: way(name).tunnel for name in ("ipip", "gre")}
    vips = [Vip(ip_address(address), address, tunnels=("ipip", "gre")) for address in (VIP1, VIP2)]
    declared = replace(declared, tunnels=tunnels, vips={vip.key: vip for vip in vips})
    both = {name: way(name) for name in tunnels}
    assert [(str(vip), name) for vip, name in pairs(declared, both)] == [
        (VIP1, "ipip"),
        (VIP1, "gre"),
        (VIP2, "gre"),
    ]
    assert [name for _, name in pairs(declared, {"gre": both["gre"]})] == ["gre", "gre"]
    assert {str(vip) for vip, _ in pairs(declared, both, [ip_address(VIP2)])} == {VIP2}


def test_the_client_is_never_one_of_this_hosts_addresses() -> None:
    assert clients(()) == {4: CLIENTS[0], 6: CLIENTS[3]}
    assert clients({CLIENTS[0], CLIENTS[3], CLIENTS[4]}) == {4: CLIENTS[1], 6: CLIENTS[5]}
    assert clients(set(CLIENTS)) == {}


@pytest.mark.parametrize(
    ("network", "taken", "sender"),
    [
        ("10.1.0.0/24", [], "10.1.0.1"),
        ("10.1.0.0/24", ["10.1.0.1", "10.1.0.2", "10.9.9.9"], "10.1.0.3"),
        ("10.1.0.5/32", ["10.1.0.5"], "10.1.0.5"),
        ("10.1.0.4/31", ["10.1.0.4"], "10.1.0.5"),
        ("10.1.0.0/30", ["10.1.0.1", "10.1.0.2"], "10.1.0.1"),
        ("0.0.0.0/0", ["1.0.0.1"], "1.0.0.2"),
        ("2001:db8:f::/64", ["2001:db8:f::1"], "2001:db8:f::2"),
    ],
)
def test_the_sender_is_a_balancer_and_nobody_here(network: str, taken: list[str], sender: str) -> None:
    """A link over IPv6 takes nothing from an address of this host, and no balancer has one (facts B6)."""
    balancers, there = (ip_network(network),), way("ipip")
    if balancers[0].version == 6:
        here = ip_address("2001:db8::2")
        outer = Outer(local=here)
        there = Way(Tunnel("ipip", "ipip", LocalAddress(here)), replace(there.link, kind="ip6tnl", outer=outer))
    tunnel = replace(there.tunnel, load_balancers=balancers)
    there = replace(there, tunnel=tunnel, taken=frozenset(map(ip_address, taken)))

    sent = shot(Pair(ip_address(VIP1), "ipip"), there, CLIENTS[0]).wrap(40000, bytes(PAYLOAD))

    assert (sent[12:16] if balancers[0].version == 4 else sent[8:24]) == ip_address(sender).packed


@pytest.mark.parametrize("kind", ["ipip", "gre"])
def test_nothing_is_sent_where_no_link_of_ours_takes_it(kind: str) -> None:
    fits = way(kind)
    unfit = shot(Pair(ip_address(VIP1), kind), fits, CLIENTS[0]).unfit
    assert unfit(fits.link) == ""
    assert unfit(None) == "the tunnel is missing"
    assert unfit(replace(fits.link, up=False)) == "the tunnel is down"
    assert unfit(replace(fits.link, group=0)).endswith("is not ours")
    assert "other than declared" in unfit(replace(fits.link, kind="sit"))
    assert "other than declared" in unfit(replace(fits.link, outer=None))
    assert fits.link.outer
    assert "other than declared" in unfit(replace(fits.link, outer=replace(fits.link.outer, remote=HERE)))


# --- whose turn -------------------------------------------------------------------------------------------------------


def test_each_in_turn_and_again_after_the_interval() -> None:
    rotation = Rotation(interval=10, soon=1)
    rotation.keep([pair(0), pair(1)], 0)
    assert [rotation.take(0), rotation.take(0), rotation.take(0)] == [pair(0), pair(1), None]
    rotation.back(pair(0), 0, doubtful=False)
    rotation.back(pair(1), 0, doubtful=True)
    assert rotation.next_due() == 1
    assert [rotation.take(0.9), rotation.take(1), rotation.take(1), rotation.take(10)] == [None, pair(1), None, pair(0)]


def test_what_is_gone_is_not_tried_and_what_is_new_is_tried_first() -> None:
    rotation = Rotation(interval=10, soon=1)
    rotation.keep([pair(0), pair(1), pair(2)], 0)
    assert rotation.take(0) == pair(0)
    rotation.keep([pair(2), pair(3)], 0)
    rotation.back(pair(0), 0, doubtful=False)
    assert [rotation.take(99), rotation.take(99), rotation.take(99)] == [pair(3), pair(2), None]
    assert rotation.pairs == {pair(2), pair(3)}


def test_one_that_is_under_way_is_not_sent_twice_when_it_goes_and_comes_back() -> None:
    rotation = Rotation(interval=10, soon=1)
    rotation.keep([pair(0)], 0)
    assert rotation.take(0) == pair(0)
    rotation.keep([], 0)
    rotation.keep([pair(0)], 0)
    assert rotation.take(0) is None
    rotation.back(pair(0), 0, doubtful=False)
    assert rotation.take(10) == pair(0)


@given(st.integers(1, 30), st.sets(st.integers(0, 29)))
def test_nobody_is_kept_from_their_turn_however_many_are_in_doubt(count: int, ill: set[int]) -> None:
    """Far more pairs than the budget allows for: each comes at least once in 2 N turns, whatever the others do."""
    rotation = Rotation(interval=0, soon=0)
    everyone = [pair(number) for number in range(count)]
    rotation.keep(everyone, 0)
    turns: list[Pair] = []
    for turn in range(6 * count):
        taken = rotation.take(turn)
        assert taken is not None
        turns.append(taken)
        rotation.back(taken, turn, doubtful=everyone.index(taken) in ill)
    for start in range(4 * count):
        seen = Counter(turns[start : start + 2 * count])
        assert set(seen) == set(everyone)


# --- reach ----------------------------------------------------------------------------------------------------------


def after(sights: Sequence[Sight], fall: int = 3, rise: int = 2) -> Reach[Sight]:
    """The reach after these results."""
    reach: Reach[Sight] = Reach()
    for sight in sights:
        reach = reach.after(sight, fall, rise)
    return reach


@pytest.mark.parametrize(
    ("sights", "state", "doubtful"),
    [
        ([], Reached.UNTRIED, False),
        ([ARRIVED], Reached.UP, False),
        ([LOST], Reached.UNTRIED, True),
        ([LOST, LOST], Reached.UNTRIED, True),
        ([LOST, LOST, LOST], Reached.FALLEN, False),
        ([LOST, LOST, ARRIVED], Reached.UP, False),
        ([ARRIVED, LOST], Reached.UP, True),
        ([ARRIVED, LOST, LOST, ARRIVED, LOST, LOST], Reached.UP, True),
        ([ARRIVED, LOST, MISSING, LOST], Reached.FALLEN, False),
        ([ARRIVED, LOST, UNKNOWN, LOST, UNKNOWN], Reached.UP, True),
        ([LOST, LOST, LOST, ARRIVED], Reached.FALLEN, True),
        ([LOST, LOST, LOST, ARRIVED, LOST, ARRIVED], Reached.FALLEN, True),
        ([LOST, LOST, LOST, ARRIVED, ARRIVED], Reached.UP, False),
        ([LOST, LOST, LOST, UNKNOWN], Reached.FALLEN, False),
    ],
)
def test_it_falls_and_rises_after_so_many_in_a_row(sights: list[Sight], state: Reached, doubtful: bool) -> None:
    reach = after(sights)
    assert (reach.state, reach.doubtful) == (state, doubtful)


@given(st.lists(st.sampled_from([ARRIVED, LOST, MISSING])), st.integers(1, 4), st.integers(1, 4))
def test_no_standing_without_as_many_results_in_a_row(sights: list[Sight], fall: int, rise: int) -> None:
    good = [sight.what is Seen.ARRIVED for sight in sights]
    before = after(sights[:-1], fall, rise).state if sights else Reached.UNTRIED
    now = after(sights, fall, rise).state
    if now is Reached.FALLEN and before is not Reached.FALLEN:
        assert not any(good[-fall:])
        assert len(good) >= fall
    if now is Reached.UP and before is Reached.FALLEN:
        assert all(good[-rise:])


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sight", "fault", "words"),
    [
        (Sight(Seen.ARRIVED, "t", seconds=0.0021), None, "arrived by t in 2.1 ms"),
        (Sight(Seen.ELSEWHERE, "tunl0"), "other_tunnel", "by tunl0"),
        (Sight(Seen.NO_VIP, why="the VIP is not on this host"), "vip", "not sent: the VIP"),
        (Sight(Seen.NO_TUNNEL, why="the tunnel is down"), "tunnel", "not sent: the tunnel is down"),
        (Sight(Seen.UNKNOWN, why="no route"), None, "not tried: no route"),
        (Sight(Seen.REFUSED, why="no"), "sending", "not sent: no"),
        (LOST, "unknown", "did not arrive"),
        (
            Sight(Seen.LOST, evidence=Increase({"TcpExtIPReversePathFilter": 1}, 1, 0, 1)),
            "reverse_path",
            "with that of all: 1)",
        ),
        (Sight(Seen.LOST, evidence=Increase({}, 0, 1)), "tunnel_refuses", "refused"),
        (Sight(Seen.LOST, evidence=Increase({"IpInAddrErrors": 1}, 1)), "routing", "led packets nowhere"),
        (Sight(Seen.LOST, evidence=Increase({"IcmpOutDestUnreachs": 1})), "tunnel", "nobody is here"),
        (Sight(Seen.LOST, evidence=Increase({}, 1)), "firewall_behind_tunnel", "came out of the tunnel"),
        (Sight(Seen.LOST, evidence=Increase()), "firewall_before_tunnel", "nothing came out"),
    ],
)
def test_what_a_result_suggests_is_what_its_evidence_says(sight: Sight, fault: str | None, words: str) -> None:
    assert suspect(sight) == fault
    assert words in said(sight)
