"""What the guard has counted in all, whatever became of its table meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Callable

from dsr_agent.state.count import Count, Counted, Place


class Totals:
    """Counts that never step back, although the kernel's do when the table is made again."""

    def __init__(self) -> None:
        self._last: dict[Place, Count] = {}
        self._totals: dict[Place, Count] = {}

    def look(self, now: Counted | None) -> Counted:
        """The totals, after *now* was read; what is not in it keeps its total, for it may come back."""
        if now is None:  # nothing could be read
            return self._totals
        last, totals = self._last, self._totals
        for place in last.keys() - now.keys():
            last[place] = Count()
        for place, count in now.items():
            before = last.get(place)
            if count != before:
                last[place] = count
                totals[place] = count if before is None else totals[place].plus(count.since(before))
        return totals

    def keep(self, wanted: Callable[[Place], bool]) -> None:
        """Forget all but the *wanted*: what has left the file need not be known for ever."""
        for place in [place for place in self._totals if not wanted(place)]:
            del self._totals[place], self._last[place]
