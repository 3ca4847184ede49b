"""Whose turn it is: every pair in turn, and those in doubt sooner, without keeping the others from theirs. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set

from dsr_agent.truth.probe import Pair


class Rotation:
    """
    Pairs by the time at which they are due.

    While pairs of both sorts are due, every second turn is for one that is not in doubt, so that among N pairs each
    comes within 2 N turns, whatever becomes of the others.
    """

    def __init__(self, interval: float, soon: float) -> None:
        self.interval = interval
        self.soon = soon
        self._known: set[Pair] = set()
        self._regular: deque[tuple[float, Pair]] = deque()
        self._doubtful: deque[tuple[float, Pair]] = deque()
        self._away: set[Pair] = set()
        self._doubtful_had_its_turn = False

    def __len__(self) -> int:
        return len(self._known)

    @property
    def pairs(self) -> Set[Pair]:
        """All of them."""
        return self._known

    def keep(self, pairs: Iterable[Pair], now: float) -> None:
        """From now on these: new ones are due at once, and what is not among them is forgotten."""
        wanted = dict.fromkeys(pairs)
        new = [pair for pair in wanted if pair not in self._known and pair not in self._away]
        self._known = set(wanted)
        self._regular = deque((due, pair) for due, pair in self._regular if pair in self._known)
        self._doubtful = deque((due, pair) for due, pair in self._doubtful if pair in self._known)
        self._regular.extendleft((now, pair) for pair in reversed(new))

    def take(self, now: float) -> Pair | None:
        """The next pair that is due; it is away until `back`."""
        queues = [queue for queue in (self._doubtful, self._regular) if queue and queue[0][0] <= now]
        if not queues:
            return None
        queue = queues[-1] if self._doubtful_had_its_turn else queues[0]
        self._doubtful_had_its_turn = queue is self._doubtful
        _, pair = queue.popleft()
        self._away.add(pair)
        return pair

    def back(self, pair: Pair, taken: float, *, doubtful: bool) -> None:
        """*pair*, which was taken at *taken*, was tried."""
        self._away.discard(pair)
        if pair not in self._known:
            return
        if doubtful:
            self._doubtful.append((taken + self.soon, pair))
        else:
            self._regular.append((taken + self.interval, pair))

    def next_due(self) -> float | None:
        """When the next pair is due, if none is before."""
        return min((queue[0][0] for queue in (self._doubtful, self._regular) if queue), default=None)
