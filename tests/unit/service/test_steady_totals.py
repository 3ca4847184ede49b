"""Counters that never step back, whatever happens to the links that count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.kernel.stats import Counted, Received
from dsr_agent.service.metrics.steady_totals import SteadyTotals
from dsr_agent.state.count import Count

TUNNEL = {"dsr-gre": "dsr-gre"}


def counted(packets: int, ifindex: int = 7, name: str = "dsr-gre") -> Counted:
    """A link that has received so many packets."""
    return Counted(name, ifindex, Received(packets=packets, bytes=packets * 100))


class Clock:
    """A wall clock."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_counted_before_the_first_look_counts_but_nobody_knows_when_it_came() -> None:
    reading = SteadyTotals(Clock()).look(TUNNEL, {"dsr-gre": counted(50)})["dsr-gre"]

    assert reading.received == Received(packets=50, bytes=5000)
    assert reading.grew_at is None


def test_growth_is_seen_at_a_look() -> None:
    clock = Clock()
    totals = SteadyTotals(clock)
    totals.look(TUNNEL, {"dsr-gre": counted(50)})
    clock.now = 1010.0
    assert totals.look(TUNNEL, {"dsr-gre": counted(51)})["dsr-gre"].grew_at == 1010.0
    clock.now = 1020.0
    assert totals.look(TUNNEL, {"dsr-gre": counted(51)})["dsr-gre"].grew_at == 1010.0


def test_a_recreated_link_goes_on_from_the_last_words_of_the_old_one() -> None:
    totals = SteadyTotals(Clock())
    totals.look(TUNNEL, {"dsr-gre": counted(50)})

    reading = totals.look(TUNNEL, {"dsr-gre": counted(5, ifindex=8)}, [counted(60)])["dsr-gre"]

    assert reading.received.packets == 65


def test_without_last_words_nothing_steps_back() -> None:
    totals = SteadyTotals(Clock())
    totals.look(TUNNEL, {"dsr-gre": counted(50)})
    assert totals.look(TUNNEL, {"dsr-gre": counted(5, ifindex=8)})["dsr-gre"].received.packets == 55


def test_a_missing_link_keeps_its_reading() -> None:
    totals = SteadyTotals(Clock())
    totals.look(TUNNEL, {"dsr-gre": counted(50)})
    assert totals.look(TUNNEL, {})["dsr-gre"].received.packets == 50


def test_a_link_that_came_and_went_between_two_looks_counts() -> None:
    totals = SteadyTotals(Clock())
    assert totals.look(TUNNEL, {}, [counted(9, ifindex=3)])["dsr-gre"].received.packets == 9


def test_the_link_of_somebody_else_does_not_count() -> None:
    totals = SteadyTotals(Clock())
    assert totals.look(TUNNEL, {}, [counted(9, name="theirs")])["dsr-gre"].received.packets == 0


def test_a_tunnel_that_left_the_file_is_forgotten() -> None:
    totals = SteadyTotals(Clock())
    totals.look(TUNNEL, {"dsr-gre": counted(50)})
    assert totals.look({}, {}) == {}


@given(
    st.lists(
        st.one_of(
            st.integers(0, 1000).map(lambda more: ("counts", more)),
            st.sampled_from([("goes", 0), ("goes unheard", 0), ("look", 0)]),
        ),
        max_size=30,
    )
)
def test_it_never_steps_back_and_loses_nothing_that_was_told(steps: list[tuple[str, int]]) -> None:
    totals = SteadyTotals(Clock())
    ifindex, packets, told, last, unheard = 1, 0, 0, 0, False
    gone: list[Counted] = []
    for step, more in steps:
        if step == "counts":
            packets += more
            told += more
        elif step == "goes":
            gone.append(counted(packets, ifindex))
            ifindex, packets = ifindex + 1, 0
        elif step == "goes unheard":
            unheard = True
            ifindex, packets = ifindex + 1, 0
        else:
            now = totals.look(TUNNEL, {"dsr-gre": counted(packets, ifindex)}, gone)["dsr-gre"].received.packets
            gone = []
            assert now >= last
            assert now == told or (unheard and now <= told)
            last = now


def test_the_self_tests_packets_are_nobodys_traffic() -> None:
    clock = Clock()
    totals = SteadyTotals(clock)
    first = totals.look(TUNNEL, {"dsr-gre": counted(50)}, own={"dsr-gre": Count(20, 2000)})["dsr-gre"]
    assert (first.received.packets, first.received.bytes) == (30, 3000)
    clock.now = 1010.0
    idle = totals.look(TUNNEL, {"dsr-gre": counted(60)}, own={"dsr-gre": Count(30, 3000)})["dsr-gre"]
    assert (idle.received.packets, idle.grew_at) == (30, None), "only the self-test's came"
    more = totals.look(TUNNEL, {"dsr-gre": counted(61)}, own={"dsr-gre": Count(30, 3000)})["dsr-gre"]
    assert (more.received.packets, more.grew_at) == (31, 1010.0)


def test_a_packet_of_the_self_test_between_two_counters_makes_none_step_back() -> None:
    totals = SteadyTotals(Clock())
    totals.look(TUNNEL, {"dsr-gre": counted(50)}, own={"dsr-gre": Count(20, 2000)})
    late = totals.look(TUNNEL, {"dsr-gre": counted(50)}, own={"dsr-gre": Count(21, 2100)})["dsr-gre"]
    assert (late.received.packets, late.received.bytes) == (30, 3000)
    right = totals.look(TUNNEL, {"dsr-gre": counted(51)}, own={"dsr-gre": Count(21, 2100)})["dsr-gre"]
    assert (right.received.packets, right.grew_at) == (30, None)
