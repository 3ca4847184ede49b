"""
What the loop shows to everybody else in this process: the overview, the counts, the file, and that it turns.

The loop writes and never waits; whoever reads is in another thread and gets whole values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsr_agent.service.event_counts import EventCounts
from dsr_agent.service.ledger import Probes
from dsr_agent.service.overview import Overview
from dsr_agent.state.model import Ip
from dsr_agent.state.report import Report
from dsr_agent.truth.arrivals import Arrival
from dsr_agent.truth.checks import ByVip
from dsr_agent.truth.listeners import Standings
from dsr_agent.truth.spans import Spans


@dataclass(frozen=True, slots=True)
class FileState:
    """
    How reading the file went, the last time.

    *good_at* is when it was last usable, *tried_at* when it was last read (seconds since 1970), *refusals* what was
    said about it then: empty if it was usable.
    """

    good_at: float
    tried_at: float
    refusals: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether what is in force is what is in the file, as last read."""
        return not self.refusals


@dataclass
class Board:
    """See above. *patience* is how long the loop may take to come round before it counts as stuck, in seconds."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    patience: float = 60.0
    overview: Overview = field(default_factory=Overview)
    counts: EventCounts = field(default_factory=EventCounts)

    def __post_init__(self) -> None:
        self.started_at = self.wall()
        self.turned_at = self.clock()
        self.file = FileState(self.started_at, self.started_at)
        self.probes = Probes()
        """What the self-test has found."""
        self.foreign_drops: tuple[str, ...] = ()
        """Which chains of other firewalls drop what the guard lets in, when last looked."""
        self.services: Standings = {}
        """How each declared service stands, if anybody listens for it."""
        self.services_unknown = ""
        """Why that cannot be known, where it cannot."""
        self.checks: ByVip = {}
        """What applications answered. The loop changes it in place: who goes through it copies it first."""
        self.drains = Spans()
        """What is drained; some of it may be over."""
        self.holds = Spans()
        """What is held; some of it may be over. What the loop goes by is in the overview."""
        self._passed = threading.Condition()
        self.arrivals: Mapping[Ip, Arrival] = {}
        """What still arrives for what is drained, where the guard counts it."""

    def add(self, report: Report) -> None:
        """A pass has ended."""
        self.counts.add(report, self.overview.undone)
        with self._passed:
            self.overview = self.overview.after(report)
            self._passed.notify_all()

    def until(self, condition: Callable[[Overview], bool], seconds: float) -> bool:
        """Wait in another thread for a pass after which *condition* holds; whether it came within so many seconds."""
        with self._passed:
            return self._passed.wait_for(lambda: condition(self.overview), seconds)

    def turned(self) -> None:
        """The loop has come round."""
        self.turned_at = self.clock()

    def file_good(self) -> None:
        """The file was read, and is in force."""
        now = self.wall()
        self.file = FileState(now, now)

    def file_refused(self, refusals: tuple[str, ...]) -> None:
        """The file was read, and cannot be used."""
        self.file = FileState(self.file.good_at, self.wall(), refusals)

    @property
    def turn_age(self) -> float:
        """Seconds since the loop last came round."""
        return max(self.clock() - self.turned_at, 0.0)

    @property
    def alive(self) -> bool:
        """Whether the loop turns."""
        return self.turn_age <= self.patience


def sentence(overview: Overview, file: FileState) -> str:
    """How it goes, in one line, for ``systemctl status``."""
    tunnels, vips = len(overview.desired.tunnels), len(overview.desired.vips)
    if not overview.passes:
        text = "starting"
    elif overview.in_sync:
        held = f", {len(overview.desired.held)} of them held" if overview.desired.held else ""
        text = f"in sync: {tunnels} tunnel{'s' * (tunnels != 1)}, {vips} VIP{'s' * (vips != 1)}{held}"
    else:
        key, reasons = next(iter(overview.undone.items()))
        more = f" (and {len(overview.undone) - 1} more)" if len(overview.undone) > 1 else ""
        text = f"not in sync: {_named(overview, key)}: {reasons[0]}{more}"
    if overview.fights:
        text += f"; somebody keeps undoing {_several(overview)}"
    if not file.good:
        text += f"; the file cannot be used, going on as before: {file.refusals[0]}"
    return " ".join(text.split())


def _several(overview: Overview) -> str:
    first = next(iter(overview.fights))
    return _named(overview, first) + (f" and {len(overview.fights) - 1} more" if len(overview.fights) > 1 else "")


def _named(overview: Overview, key: object) -> str:
    if key in overview.desired.vips:
        return f"VIP {key}"
    return f"tunnel {key}" if str(key) in overview.desired.tunnels else str(key)
