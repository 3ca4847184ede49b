"""How an application stands after what it answered, and what is said of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.truth.checks import Answer, Checked, FailureReason
from dsr_agent.truth.reach import Reach, Reached

GOOD = Answer(seconds=0.25)
SILENT = Answer(FailureReason.TIMEOUT, "no answer from 192.0.2.10:1812 within 2 s", "it hangs")
UNASKED = Answer(FailureReason.ERROR, "secret_file /s cannot be read by the agent: Permission denied")


def after(*answers: Answer, fall: int = 3, rise: int = 2) -> Checked:
    """The standing after these."""
    now = Checked()
    for answer in answers:
        now = now.after(answer, fall, rise)
    return now


def test_before_the_first_answer_nothing_is_against_the_vip() -> None:
    now = after()

    assert (now.up, now.why_not("radius"), now.state) == (None, "", "not asked yet")


def test_the_first_good_answer_is_enough_at_the_start() -> None:
    assert after(GOOD).up is True
    assert after(SILENT, SILENT, GOOD).up is True


def test_it_falls_after_so_many_in_a_row_and_says_why() -> None:
    assert after(GOOD, SILENT, SILENT).up is True
    assert after(GOOD, SILENT, SILENT, GOOD, SILENT, SILENT).up is True
    now = after(GOOD, SILENT, SILENT, SILENT)

    assert now.up is False
    assert now.why_not("radius") == "radius check: no answer from 192.0.2.10:1812 within 2 s, 3 times (it hangs)"
    assert after(SILENT, SILENT).up is None
    assert after(SILENT, SILENT, SILENT).up is False


def test_it_rises_after_so_many_in_a_row() -> None:
    down = (SILENT, SILENT, SILENT)
    again = after(*down, GOOD)

    assert again.up is False
    assert again.why_not("radius") == (
        "radius check: answers again, to be seen once more; before: no answer from 192.0.2.10:1812 within 2 s"
    )
    assert after(*down, GOOD, SILENT, GOOD).up is False
    assert after(*down, GOOD, GOOD).up is True


def test_what_could_not_be_asked_says_nothing_about_the_vip() -> None:
    now = after(GOOD, UNASKED, UNASKED, UNASKED, UNASKED)

    assert (now.up, now.state) == (True, f"cannot be asked: {UNASKED.text}")
    assert after(SILENT, UNASKED, SILENT, UNASKED, SILENT).up is False
    assert after(GOOD, UNASKED, GOOD).state == "answers"


def test_failures_are_counted_by_reason_for_ever() -> None:
    now = after(SILENT, GOOD, UNASKED, SILENT, Answer(FailureReason.TLS, "x"))

    assert now.failures == {FailureReason.TIMEOUT: 2, FailureReason.ERROR: 1, FailureReason.TLS: 1}


def test_how_long_it_took_is_told_of_good_answers_only() -> None:
    assert after(GOOD).seconds == 0.25
    assert after(GOOD, SILENT).seconds is None


answers = st.lists(st.sampled_from([GOOD, SILENT, UNASKED]), max_size=30)


@given(answers, st.integers(1, 5), st.integers(1, 5))
def test_a_standing_changes_only_after_so_many_in_a_row(found: list[Answer], fall: int, rise: int) -> None:
    """Against a count that is made anew at every step."""
    reach: Reach[Answer] = Reach()
    told = [answer for answer in found if answer.good is not None]
    for answer in found:
        reach = reach.after(answer, fall, rise)
    standing: bool | None = None
    for end in range(1, len(told) + 1):
        last = [bool(answer.good) for answer in told[:end]]
        needed = (1 if standing is None else rise) if last[-1] else fall
        if last[-1] is not standing and len(last) >= needed and set(last[-needed:]) == {last[-1]}:
            standing = last[-1]
    assert reach.state is Reached(standing)
