"""What the guard's table has counted, out of its listing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dsr_agent.state.table import canonical


class Count(NamedTuple):
    """So many packets, and bytes of them with their IP headers."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: Count) -> Count:
        """The sum."""
        return Count(self.packets + other.packets, self.bytes + other.bytes)

    def since(self, before: Count) -> Count:
        """What has been counted since *before*; all of it if the counting began anew in between."""
        if self.packets < before.packets or self.bytes < before.bytes:
            return self
        return Count(self.packets - before.packets, self.bytes - before.bytes)


Counted = Mapping[tuple[str, str], Count]
"""By the name of the set and the element (in JSON, as in `state.table`); a named counter has no element."""


def counted(objects: Iterable[dict[str, Any]]) -> dict[tuple[str, str], Count]:
    """What *objects*, the listing of the table, have counted."""
    found: dict[tuple[str, str], Count] = {}
    for item in objects:
        if counter := item.get("counter"):
            found[counter["name"], ""] = Count(counter["packets"], counter["bytes"])
        for element in item.get("set", {}).get("elem", ()):
            inside = element.get("elem", {}) if isinstance(element, dict) else {}
            if counter := inside.get("counter"):
                place = (item["set"]["name"], canonical(inside["val"]))
                found[place] = Count(counter["packets"], counter["bytes"])
    return found


class Totals:
    """Counts that never step back, although the kernel's do when the table is made again."""

    def __init__(self) -> None:
        self._last: Counted = {}
        self._totals: dict[tuple[str, str], Count] = {}

    def look(self, now: Counted | None) -> Counted:
        """The totals, after *now* was read; what is not in it keeps its total, for it may come back."""
        if now is None:  # nothing could be read
            return self._totals
        for place, count in now.items():
            grown = count.since(self._last.get(place, Count()))
            self._totals[place] = self._totals.get(place, Count()).plus(grown)
        self._last = {**{place: Count() for place in self._last}, **now}
        return self._totals
