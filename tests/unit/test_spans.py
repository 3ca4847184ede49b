"""Which VIPs are drained, and what is kept of it; what still arrives for them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.guard.counters import Count
from dsr_agent.state.model import Ip
from dsr_agent.truth.arrivals import Arrival, Arrivals
from dsr_agent.truth.spans import DamagedError, Span, Spans, read, text_of

A, B, C = (ip_address(text) for text in ("192.0.2.10", "192.0.2.11", "2001:db8::10"))
DECLARED = (A, B, C)

TIMES = st.floats(0, 2e9, allow_nan=False)
SPANS = st.builds(Span, TIMES, st.none() | TIMES)
STATES = st.builds(Spans, st.dictionaries(st.sampled_from(DECLARED), SPANS), st.none() | SPANS)
NAMED = st.sets(st.sampled_from(DECLARED))


@given(STATES)
def test_what_is_written_is_read(spans: Spans) -> None:
    assert read(text_of(spans)) == spans


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DamagedError):
        read(text)


@pytest.mark.parametrize("wrong", ['"soon"', "true", "NaN", "[]", "1e999"])
def test_what_is_no_time_is_refused(wrong: str) -> None:
    with pytest.raises(DamagedError):
        read('{"version": 1, "host": {"since": 0, "until": ' + wrong + '}, "vips": {}}')


@given(STATES, NAMED, SPANS, TIMES)
def test_who_is_drained_after_a_drain(spans: Spans, ips: set[Ip], span: Span, now: float) -> None:
    """Those that are named, or all, until the time that was named last; nobody else but who was before."""
    found = spans.plus(ips, span)
    for ip in DECLARED:
        if not ips or ip in ips:
            assert span.over(now) or found.of(ip, now) is not None
        else:
            assert found.of(ip, now) == spans.of(ip, now)


@given(STATES, NAMED, TIMES)
def test_who_is_drained_after_an_undrain(spans: Spans, ips: set[Ip], now: float) -> None:
    """Nobody of those that are named (or nobody at all); everybody else as before."""
    found = spans.minus(ips, DECLARED)
    for ip in DECLARED:
        gone = not ips or ip in ips
        assert (found.of(ip, now) is None) if gone else (bool(found.of(ip, now)) == bool(spans.of(ip, now)))
    assert found.of_host(now) is None or not spans.of_host(now)


@given(STATES, TIMES)
def test_what_is_over_is_as_if_it_never_was(spans: Spans, now: float) -> None:
    current = spans.current(now)
    assert [current.of(ip, now) for ip in DECLARED] == [spans.of(ip, now) for ip in DECLARED]
    end = current.next_end()
    assert end is None or end > now


def test_a_drain_ends_to_the_moment() -> None:
    spans = Spans({A: Span(10.0, 20.0)})
    assert spans.of(A, 19.9) == Span(10.0, 20.0)
    assert spans.of(A, 20.0) is None
    assert spans.of(B, 15.0) is None


def test_the_later_end_counts_where_host_and_vip_are_drained() -> None:
    spans = Spans({A: Span(10.0, 20.0), B: Span(5.0)}, Span(8.0, 30.0))
    assert spans.of(A, 15.0) == Span(8.0, 30.0)
    assert spans.of(B, 15.0) == Span(5.0)
    assert spans.of(C, 25.0) == Span(8.0, 30.0)


def test_draining_again_keeps_the_beginning() -> None:
    assert Spans({A: Span(10.0)}).plus([A], Span(50.0, 60.0)) == Spans({A: Span(10.0, 60.0)})


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
