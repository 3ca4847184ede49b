"""
What has happened since this process started, as numbers.

Written by the loop and read by another thread: every value is replaced as a whole, and no key comes or goes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container
from dataclasses import dataclass
from itertools import accumulate

from dsr_agent.service.subjects import SubjectSort, sort_of
from dsr_agent.state.model import Key
from dsr_agent.state.report import PassCause, Report, Result

# Seconds. A VIP is put back in one or two milliseconds; ten thousand of them take most of a second.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long; *counts* has one more entry than `BOUNDS`, for what took longer."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0

    def plus(self, seconds: float) -> Histogram:
        """This, and one more."""
        place = bisect_left(BOUNDS, seconds)
        counts = tuple(count + (index == place) for index, count in enumerate(self.counts))
        return Histogram(counts, self.total + seconds)

    @property
    def cumulative(self) -> list[tuple[str, int]]:
        """Upper bound and how many took at most that long, as Prometheus wants it."""
        bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class EventCounts:
    """Drift, repairs and passes, counted."""

    def __init__(self) -> None:
        self.drift: dict[SubjectSort, int] = dict.fromkeys(SubjectSort, 0)
        self.repairs: dict[tuple[SubjectSort, Result], int] = {
            (sort, result): 0 for sort in SubjectSort for result in Result
        }
        self.repair_seconds = Histogram()
        self.pass_seconds: dict[PassCause, Histogram] = dict.fromkeys(PassCause, Histogram())

    def add(self, report: Report, known: Container[Key] = ()) -> None:
        """Count *report*. What was *known* to be undone before has drifted once, however often it is looked at."""
        self.pass_seconds[report.cause] = self.pass_seconds[report.cause].plus(report.seconds)
        if report.cause not in (PassCause.DRIFT, PassCause.RETRY):
            return  # what a new file asks for is neither drift nor repair
        if report.cause is PassCause.DRIFT:
            for action in report.plan.actions:
                if not action.why.is_part and action.key not in known:
                    self.drift[sort_of(action.key, report.desired)] += 1
        done = False
        for outcome in report.outcomes:
            done |= outcome.result is Result.DONE
            if not outcome.action.why.is_part:
                self.repairs[sort_of(outcome.action.key, report.desired), outcome.result] += 1
        if done:
            self.repair_seconds = self.repair_seconds.plus(report.seconds)
