"""So many packets, and so many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


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


Place = tuple[str, str]
"""Where the guard counts: the name of the set, and the element in JSON, as in `state.table`; empty for a counter."""

Counted = Mapping[Place, Count]
