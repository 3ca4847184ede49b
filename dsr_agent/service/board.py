"""
What the loop shows to everybody else in this process: the picture, the tally, the file, and that it turns.

The loop writes and never waits; whoever reads is in another thread and gets whole values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dsr_agent.service.picture import Picture
from dsr_agent.service.tally import Tally
from dsr_agent.state.report import Report


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
    picture: Picture = field(default_factory=Picture)
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.started_at = self.wall()
        self.turned_at = self.clock()
        self.file = FileState(self.started_at, self.started_at)

    def add(self, report: Report) -> None:
        """A pass has ended."""
        self.tally.add(report, self.picture.undone)
        self.picture = self.picture.after(report)

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


def sentence(picture: Picture, file: FileState) -> str:
    """How it goes, in one line, for ``systemctl status``."""
    tunnels, vips = len(picture.desired.tunnels), len(picture.desired.vips)
    if not picture.passes:
        text = "starting"
    elif picture.in_sync:
        text = f"in sync: {tunnels} tunnel{'s' * (tunnels != 1)}, {vips} VIP{'s' * (vips != 1)}"
    else:
        key, reasons = next(iter(picture.undone.items()))
        more = f" (and {len(picture.undone) - 1} more)" if len(picture.undone) > 1 else ""
        text = f"not in sync: {_named(picture, key)}: {reasons[0]}{more}"
    if picture.fights:
        text += f"; somebody keeps undoing {_several(picture)}"
    if not file.good:
        text += f"; the file cannot be used, going on as before: {file.refusals[0]}"
    return " ".join(text.split())


def _several(picture: Picture) -> str:
    first = next(iter(picture.fights))
    return _named(picture, first) + (f" and {len(picture.fights) - 1} more" if len(picture.fights) > 1 else "")


def _named(picture: Picture, key: object) -> str:
    if key in picture.desired.vips:
        return f"VIP {key}"
    return f"tunnel {key}" if str(key) in picture.desired.tunnels else str(key)
