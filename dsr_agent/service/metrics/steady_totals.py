"""
Counters that never step back: what a tunnel has received in all, whatever links carried it one after the other. Pure.

The kernel counts for each link, from the moment it is made. A link that is replaced or was deleted by somebody takes
its numbers with it, but the kernel tells them once more as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dsr_agent.kernel.stats import Counted, Received


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tunnel has received in all, and when that was last seen to have grown (seconds since 1970)."""

    received: Received = field(default_factory=Received)
    grew_at: float | None = None


class SteadyTotals:
    """Adds up what the links of each tunnel count."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._readings: dict[str, Reading] = {}
        self._last: dict[int, tuple[str, Received]] = {}

    def look(
        self, tunnels: Mapping[str, str], counted: Mapping[str, Counted], gone: Iterable[Counted] = ()
    ) -> Mapping[str, Reading]:
        """
        The reading of each tunnel.

        *tunnels* maps the name of a link to its tunnel, *counted* holds what the links count now, and *gone* the
        last words of links that have gone since the last look.
        """
        for farewell in gone:
            before = self._last.pop(farewell.ifindex, None)
            tunnel = before[0] if before else tunnels.get(farewell.name)
            if tunnel is not None:
                self._add(tunnel, farewell.received.less(before[1] if before else Received()), new=False)
        for link, tunnel in tunnels.items():
            now = counted.get(link)
            if now is None:
                continue
            known = self._last.get(now.ifindex)
            self._add(tunnel, now.received.less(known[1] if known else Received()), new=known is None)
            self._last[now.ifindex] = (tunnel, now.received)
        wanted = set(tunnels.values())
        self._last = {index: entry for index, entry in self._last.items() if entry[0] in wanted}
        self._readings = {tunnel: self._readings.get(tunnel, Reading()) for tunnel in sorted(wanted)}
        return self._readings

    def _add(self, tunnel: str, more: Received, new: bool) -> None:
        """Add *more*; what a link had counted before it was first seen came at some time unknown."""
        before = self._readings.get(tunnel)
        grew_at = before.grew_at if before else None
        if more.packets and (before or not new):
            grew_at = self._wall()
        self._readings[tunnel] = Reading((before.received if before else Received()).plus(more), grew_at)
