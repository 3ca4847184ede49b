"""What was measured while the tests ran: how long each repair took and what it cost, as one table at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tests.lab.traffic import Tally

WIDTH = 96


@dataclass
class Ledger:
    """The rows of the table, and remarks below it."""

    rows: list[tuple[str, float | None, Tally | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, what: str, seconds: float | None, tally: Tally | None) -> None:
        """What was done, how long until all was right again, and what became of the packets meanwhile."""
        self.rows.append((what, seconds, tally))

    def note(self, text: str) -> None:
        """Something else that was measured."""
        self.notes.append(text)

    def lines(self) -> list[str]:
        """The table."""
        if not self.rows:
            return self.notes
        wide = min(max(len(what) for what, _, _ in self.rows), WIDTH - 40)
        head = f"{'what was done':<{wide}} {'right again':>12} {'sent':>6} {'lost':>5} {'longest gap':>14}"
        return [head, "-" * len(head), *(_row(wide, *row) for row in self.rows), *self.notes]


def _row(wide: int, what: str, seconds: float | None, tally: Tally | None) -> str:
    text = f"{what[:wide]:<{wide}} {duration(seconds):>12}"
    if tally is None:
        return text
    gap = f"{tally.longest_gap} / {tally.longest_gap_ms:.0f} ms" if tally.lost else "-"
    return f"{text} {tally.sent:>6} {tally.lost:>5} {gap:>14}"


def duration(seconds: float | None) -> str:
    """In the unit that reads best."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
