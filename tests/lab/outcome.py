"""What was asked for on the command line of the tests, and how each slice went."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import again
from tests.lab.machine.job import NO_RESULT, TIMED_OUT

NO_TESTS = 5  # pytest's exit status when it collected nothing
ENDINGS = {TIMED_OUT: "the machine's time ran out", NO_RESULT: "no result came back from the machine"}


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    long: bool
    pytest: tuple[str, ...]
    scratch: Path

    def marks(self, *words: str) -> list[str]:
        """The pytest option that picks tests by their marks."""
        chosen = [*words] if self.long else [*words, "not long"]
        return ["-m", " and ".join(chosen)] if chosen else []


@dataclass
class Outcome:
    """How a slice went."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def count(self, report: Path, status: int, second: Path | None = None) -> None:
        """
        Add up what pytest reported; an exit status that the report does not explain is a failure.

        *second*: of those that failed and were tried again. If all then passed, they have, and are named.
        """
        try:
            suites = list(ET.parse(report).getroot().iter("testsuite"))
        except (OSError, ET.ParseError):
            suites = []
        bad = 0
        for suite in suites:
            total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            bad += wrong
            self.skipped += skipped
            self.passed += max(0, total - wrong - skipped)
        if bad and second and (unsteady := again.failed(report)) <= again.passed(second):
            self.notes.append(f"passed only when tried again: {', '.join(sorted(unsteady))}")
            self.passed, bad = self.passed + bad, 0
        self.failed += bad
        if status == NO_TESTS and not bad:
            self.notes.append("no tests")
        elif status != 0 and not bad:
            self.failed += 1
            self.notes.append(ENDINGS.get(status, f"ended with exit status {status} and no report of a failed test"))
        elif status == 0 and not suites:
            self.failed += 1
            self.notes.append("ended well, but reported nothing")


def table(outcomes: list[Outcome]) -> None:
    """The end of the run: how each slice went, and the one line that sums it up."""
    print(f"\n{'slice':<14} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for outcome in outcomes:
        counts = f"{outcome.passed:>7} {outcome.failed:>7} {outcome.skipped:>8} {outcome.seconds:>8.1f}"
        print(f"{outcome.name:<14} {counts}  {'; '.join(outcome.notes)}".rstrip())
    total = [sum(getattr(outcome, name) for outcome in outcomes) for name in ("passed", "failed", "skipped")]
    print(f"\n{total[0]} passed, {total[1]} failed, {total[2]} skipped", flush=True)
