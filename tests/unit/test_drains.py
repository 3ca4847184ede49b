"""Which VIPs are drained, and what is kept of it; what still arrives for them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.state.count import Count
from dsr_agent.state.model import Ip
from dsr_agent.truth.arrivals import Arrival, Arrivals
from dsr_agent.truth.drains import DamagedError, Drain, Drains, read, text_of

A, B, C = (ip_address(text) for text in ("192.0.2.10", "192.0.2.11", "2001:db8::10"))
DECLARED = (A, B, C)

TIMES = st.floats(0, 2e9, allow_nan=False)
DRAINS = st.builds(Drain, TIMES, st.none() | TIMES)
STATES = st.builds(Drains, st.dictionaries(st.sampled_from(DECLARED), DRAINS), st.none() | DRAINS)
NAMED = st.sets(st.sampled_from(DECLARED))


@given(STATES)
def test_what_is_written_is_read(drains: Drains) -> None:
    assert read(text_of(drains)) == drains


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DamagedError):
        read(text)


@pytest.mark.parametrize("wrong", ['"soon"', "true", "NaN", "[]", "1e999"])
def test_what_is_no_time_is_refused(wrong: str) -> None:
    with pytest.raises(DamagedError):
        read('{"version": 1, "host": {"since": 0, "until": ' + wrong + '}, "vips": {}}')


@given(STATES, NAMED, DRAINS, TIMES)
def test_who_is_drained_after_a_drain(drains: Drains, ips: set[Ip], drain: Drain, now: float) -> None:
    """Those that are named, or all, until the time that was named last; nobody else but who was before."""
    found = drains.plus(ips, drain)
    for ip in DECLARED:
        if not ips or ip in ips:
            assert drain.over(now) or found.of(ip, now) is not None
        else:
            assert found.of(ip, now) == drains.of(ip, now)


@given(STATES, NAMED, TIMES)
def test_who_is_drained_after_an_undrain(drains: Drains, ips: set[Ip], now: float) -> None:
    """Nobody of those that are named (or nobody at all); everybody else as before."""
    found = drains.minus(ips, DECLARED)
    for ip in DECLARED:
        gone = not ips or ip in ips
        assert (found.of(ip, now) is None) if gone else (bool(found.of(ip, now)) == bool(drains.of(ip, now)))
    assert found.of_host(now) is None or not drains.of_host(now)


@given(STATES, TIMES)
def test_what_is_over_is_as_if_it_never_was(drains: Drains, now: float) -> None:
    current = drains.current(now)
    assert [current.of(ip, now) for ip in DECLARED] == [drains.of(ip, now) for ip in DECLARED]
    end = current.next_end()
    assert end is None or end > now


def test_a_drain_ends_to_the_moment() -> None:
    drains = Drains({A: Drain(10.0, 20.0)})
    assert drains.of(A, 19.9) == Drain(10.0, 20.0)
    assert drains.of(A, 20.0) is None
    assert drains.of(B, 15.0) is None


def test_the_later_end_counts_where_host_and_vip_are_drained() -> None:
    drains = Drains({A: Drain(10.0, 20.0), B: Drain(5.0)}, Drain(8.0, 30.0))
    assert drains.of(A, 15.0) == Drain(8.0, 30.0)
    assert drains.of(B, 15.0) == Drain(5.0)
    assert drains.of(C, 25.0) == Drain(8.0, 30.0)


def test_draining_again_keeps_the_beginning() -> None:
    assert Drains({A: Drain(10.0)}).plus([A], Drain(50.0, 60.0)) == Drains({A: Drain(10.0, 60.0)})


# --- what still arrives -----------------------------------------------------------------------------------------------


def counted(**packets: int) -> dict[tuple[str, str], Count]:
    """The guard's counters, by the name of the set."""
    element = {"vips4": '"192.0.2.10"', "vips6": '"2001:db8::10"'}
    return {(name, element[name]): Count(count, 0) for name, count in packets.items()}


def test_what_arrives_is_counted_from_the_first_look_on() -> None:
    arrivals = Arrivals()
    assert arrivals.look([A], counted(vips4=100), 10.0) == {A: Arrival(0, 10.0)}
    assert arrivals.look([A], counted(vips4=107), 12.0) == {A: Arrival(7, 10.0, 12.0)}
    assert arrivals.look([A], counted(vips4=107), 14.0) == {A: Arrival(7, 10.0, 12.0)}, "quiet since 12"
    assert arrivals.look([A, C], counted(vips4=107, vips6=5), 16.0)[C] == Arrival(0, 16.0)
    assert arrivals.look([C], counted(vips4=110, vips6=6), 18.0) == {C: Arrival(1, 16.0, 18.0)}
    assert arrivals.look([A], counted(vips4=110), 20.0) == {A: Arrival(0, 20.0)}, "drained anew"


def test_a_table_that_is_made_anew_takes_nothing_away() -> None:
    arrivals = Arrivals()
    arrivals.look([A], counted(vips4=100), 10.0)
    arrivals.look([A], counted(vips4=105), 12.0)
    assert arrivals.look([A], counted(vips4=2), 14.0) == {A: Arrival(7, 10.0, 14.0)}
    assert arrivals.look([A], {}, 16.0) == {A: Arrival(7, 10.0, 14.0)}
