"""What applications answered when they were asked, and how they stand after it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from dsr_agent.state.model import Ip
from dsr_agent.truth.reach import Reach, Reached


class FailureReason(StrEnum):
    """What is wrong with an answer: the label of a metric, so there are few and they stay."""

    TIMEOUT = "timeout"  # there was none in time
    REFUSED = "refused"  # nobody listens
    WRONG_SOURCE = "wrong_source"  # it did not come from the VIP
    BAD_ANSWER = "bad_answer"  # it does not fit the request, or is none of the protocol
    REJECTED = "rejected"  # the application says no
    TLS = "tls"
    STATUS = "status"  # of HTTP
    COMMAND = "command"  # ended with another exit code than 0
    ERROR = "error"  # it could not be asked: this says nothing about the application


class Answer(NamedTuple):
    """
    What one question came to: nothing but the time it took if it was a good answer.

    *text* says what is wrong, *hint* what to look at.
    """

    reason: FailureReason | None = None
    text: str = ""
    hint: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool | None:
        """See `reach.Attempt`."""
        return None if self.reason is FailureReason.ERROR else self.reason is None


_NONE = Answer()


class Asked(NamedTuple):
    """Which check of which VIP."""

    ip: Ip
    check: str


@dataclass(frozen=True, slots=True)
class Checked:
    """
    How an application stands.

    *row* counts the bad answers in a row, *trouble* is the last of them; *unasked* says why it cannot be asked, if it
    could not the last time. *failures* are counted for ever, by reason.
    """

    reach: Reach[Answer] = field(default_factory=Reach)
    row: int = 0
    trouble: Answer = _NONE
    unasked: str = ""
    failures: Mapping[FailureReason, int] = field(default_factory=dict)

    @property
    def up(self) -> bool | None:
        """Whether it answers; None before there is a verdict."""
        answers: bool | None = self.reach.state.value
        return answers

    @property
    def seconds(self) -> float | None:
        """How long the last answer took; None if there was none."""
        last = self.reach.last
        return last.seconds if last and last.good else None

    def after(self, answer: Answer, fall: int, rise: int) -> Checked:
        """This after one more answer."""
        failures = self.failures
        if answer.reason:
            failures = {**failures, answer.reason: failures.get(answer.reason, 0) + 1}
        reach = self.reach.after(answer, fall, rise)
        if answer.good is None:
            return Checked(reach, self.row, self.trouble, answer.text, failures)
        if answer.good:
            return Checked(reach, 0, self.trouble, "", failures)
        return Checked(reach, self.row + 1, answer, "", failures)

    @property
    def state(self) -> str:
        """How it is, in a few words."""
        if self.unasked:
            return f"cannot be asked: {self.unasked}"
        last = self.reach.last
        if last is None:
            return "not asked yet"
        if not last.good:
            row = f", {self.row} times" if self.row > 1 else ""
            return f"{self.trouble.text}{row}" + (f" ({self.trouble.hint})" if self.trouble.hint else "")
        if self.reach.state is Reached.FALLEN:
            return f"answers again, to be seen once more; before: {self.trouble.text}"
        return "answers"

    def why_not(self, check: str) -> str:
        """Why the VIP is not ready; empty if it is not for this. Before there is a verdict, nothing is against it."""
        return f"{check} check: {self.state}" if self.reach.state is Reached.FALLEN else ""


ByVip: TypeAlias = dict[Ip, Mapping[str, Checked]]
"""By the VIP's address, and there by the check's name."""
