"""
When to act: how long to collect, when to look without being told, when to try again, and when to stop fighting.

No clock and no waiting in here: everything is told what time it is, in seconds of any steady clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsr_agent.state.model import Key

# One command of an administrator announces itself in a burst; a flush of 10,000 addresses takes longer. Collect
# while announcements keep coming, but never let a VIP wait for longer than a client's first retransmission.
QUIET = 0.003
LONGEST_COLLECTING = 0.05

# Routing daemons announce by the thousand, and routes only decide about a changed local address.
ROUTES_DELAY = 0.25

# Ten repairs of one thing in a minute is nobody's administration: another program undoes us. From then on it gets a
# growing pause, which ends where a VIP would be gone for longer than a balancer's usual check interval.
FIGHT_REPAIRS = 10
FIGHT_WINDOW = 60.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0

FIRST_RETRY = 0.25
LONGEST_RETRY = 30.0


@dataclass
class _Quarrel:
    repairs: deque[float] = field(default_factory=deque)
    pause: float = 0.0
    until: float = 0.0


class Fights:
    """
    Which keys somebody keeps undoing.

    After `FIGHT_REPAIRS` repairs within `FIGHT_WINDOW` seconds a key is held, and after each further repair again,
    until it needs none for `FIGHT_WINDOW` seconds.
    """

    def __init__(self) -> None:
        self._quarrels: dict[Key, _Quarrel] = {}

    def repaired(self, keys: Iterable[Key], now: float) -> None:
        """Remember that *keys* had drifted and were repaired at *now*."""
        for key in keys:
            quarrel = self._quarrels.setdefault(key, _Quarrel())
            quarrel.repairs.append(now)
            self._forget(quarrel, now)
            if quarrel.pause or len(quarrel.repairs) >= FIGHT_REPAIRS:
                quarrel.pause = min(max(quarrel.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
                quarrel.until = now + quarrel.pause

    def held(self, now: float) -> frozenset[Key]:
        """The keys that are not to be touched at *now*."""
        return frozenset(key for key, quarrel in self._quarrels.items() if quarrel.until > now)

    def settle(self, keys: Iterable[Key]) -> None:
        """Forget what was about *keys*: whoever undid them has said what is wanted."""
        for key in keys:
            self._quarrels.pop(key, None)

    def going_on(self, now: float) -> Mapping[Key, int]:
        """The keys that are fought over at *now*, and how often each was repaired within the window."""
        for key, quarrel in list(self._quarrels.items()):
            self._forget(quarrel, now)
            if not quarrel.repairs:
                del self._quarrels[key]
        return {key: len(quarrel.repairs) for key, quarrel in self._quarrels.items() if quarrel.pause}

    def next_release(self, now: float) -> float | None:
        """When the next held key may be touched again."""
        return min((quarrel.until for quarrel in self._quarrels.values() if quarrel.until > now), default=None)

    @staticmethod
    def _forget(quarrel: _Quarrel, now: float) -> None:
        while quarrel.repairs and quarrel.repairs[0] <= now - FIGHT_WINDOW:
            quarrel.repairs.popleft()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often in a row passes have left something undone that may work later."""

    attempts: int = 0

    @property
    def delay(self) -> float:
        """How long to wait before the next try, in seconds."""
        return min(FIRST_RETRY * 2.0 ** min(self.attempts - 1, 20), LONGEST_RETRY)

    def after(self, undone: bool) -> Retry:
        """What this is after one more pass that left something *undone*, or not."""
        return Retry(self.attempts + 1) if undone else Retry()
