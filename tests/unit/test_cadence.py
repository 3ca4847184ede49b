"""When to act, told what time it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.reconcile.cadence import (
    FIGHT_REPAIRS,
    FIGHT_WINDOW,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_RETRY,
    Fights,
    Retry,
)
from dsr_agent.state.model import LinkKey

KEY = LinkKey("dsr-ipip")
OTHER = LinkKey("dsr-gre")


def repaired(fights: Fights, times: int, start: float = 0.0, apart: float = 1.0) -> float:
    """Repair KEY so often; the time of the last one."""
    for number in range(times):
        fights.repaired([KEY], start + number * apart)
    return start + (times - 1) * apart


def test_nine_repairs_within_a_minute_are_no_fight() -> None:
    """An administrator may do that."""
    fights = Fights()
    now = repaired(fights, FIGHT_REPAIRS - 1)

    assert fights.held(now) == frozenset()
    assert fights.going_on(now) == {}
    assert fights.next_release(now) is None


def test_the_tenth_one_is() -> None:
    """The key is held for half a second, and it is said how often it was repaired."""
    fights = Fights()
    now = repaired(fights, FIGHT_REPAIRS)

    assert fights.held(now) == {KEY}
    assert fights.going_on(now) == {KEY: FIGHT_REPAIRS}
    assert fights.next_release(now) == now + FIRST_PAUSE
    assert fights.held(now + FIRST_PAUSE) == frozenset()


def test_ten_repairs_over_more_than_a_minute_are_no_fight() -> None:
    """What is longer ago than the window does not count."""
    fights = Fights()
    now = repaired(fights, 30, apart=FIGHT_WINDOW / (FIGHT_REPAIRS - 1) + 0.1)

    assert fights.going_on(now) == {}


def test_each_further_repair_doubles_the_pause_up_to_the_longest() -> None:
    """Half a second, one, two, four, eight, ten, ten."""
    fights = Fights()
    now = repaired(fights, FIGHT_REPAIRS)
    pauses = []
    for _ in range(7):
        release = fights.next_release(now)
        assert release is not None
        pauses.append(release - now)
        now = release + 0.01
        fights.repaired([KEY], now)

    assert [round(pause, 2) for pause in pauses] == [0.5, 1, 2, 4, 8, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_fight_goes_on_however_slow_it_has_become() -> None:
    """At one repair in ten seconds there are only six in a minute: still the same fight."""
    fights = Fights()
    now = repaired(fights, FIGHT_REPAIRS)
    for _ in range(50):
        now += LONGEST_PAUSE + 1
        fights.repaired([KEY], now)

        assert fights.held(now) == {KEY}
        assert KEY in fights.going_on(now)


def test_a_minute_without_a_repair_ends_it_and_all_is_forgotten() -> None:
    """The next quarrel starts from the beginning."""
    fights = Fights()
    now = repaired(fights, FIGHT_REPAIRS) + FIGHT_WINDOW

    assert fights.going_on(now) == {}
    later = repaired(fights, FIGHT_REPAIRS - 1, now)
    assert fights.held(later) == frozenset()


def test_keys_are_held_apart() -> None:
    """One fight holds nothing else back."""
    fights = Fights()
    now = repaired(fights, FIGHT_REPAIRS)
    fights.repaired([OTHER], now)

    assert fights.held(now) == {KEY}


@given(st.lists(st.floats(0, 30), max_size=60))
def test_no_key_is_ever_held_for_longer_than_the_longest_pause(gaps: list[float]) -> None:
    """A VIP is never away for longer than a balancer's usual check interval because of us."""
    fights, now = Fights(), 0.0
    for gap in gaps:
        now += gap
        fights.repaired([KEY], now)

        assert (fights.next_release(now) or now) <= now + LONGEST_PAUSE


def test_retries_wait_twice_as_long_each_time_and_never_longer_than_half_a_minute() -> None:
    """From a quarter of a second on; success starts over."""
    retry = Retry()
    delays = []
    for _ in range(9):
        retry = retry.after(undone=True)
        delays.append(retry.delay)

    assert delays == [0.25, 0.5, 1, 2, 4, 8, 16, LONGEST_RETRY, LONGEST_RETRY]
    assert retry.after(undone=False) == Retry()


def test_a_very_long_trouble_does_not_overflow() -> None:
    """A year of retries."""
    assert Retry(1_000_000).delay == LONGEST_RETRY
