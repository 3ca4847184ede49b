"""
Counters that never step back: what a tunnel has received in all, whatever links carried it one after the other. Pure.

The kernel counts for each link, from the moment it is made. A link that is replaced or was deleted by somebody takes
its numbers with it, but the kernel tells them once more as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dsr_agent.kernel.stats import Counted, Received
from dsr_agent.state.count import Count


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tunnel has received in all, and when that was last seen to have grown (seconds since 1970)."""

    received: Received = field(default_factory=Received)
    grew_at: float | None = None


class SteadyTotals:
    """Adds up what the links of each tunnel count."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._totals: dict[str, Received] = {}
        self._readings: dict[str, Reading] = {}
        self._last: dict[int, tuple[str, Received]] = {}

    def look(
        self,
        tunnels: Mapping[str, str],
        counted: Mapping[str, Counted],
        gone: Iterable[Counted] = (),
        own: Mapping[str, Count] | None = None,
    ) -> Mapping[str, Reading]:
        """
        The reading of each tunnel.

        *tunnels* maps the name of a link to its tunnel, *counted* holds what the links count now, and *gone* the
        last words of links that have gone since the last look. *own* are the self-test's packets among them, in all,
        by tunnel.
        """
        dated: set[str] = set()
        for farewell in gone:
            before = self._last.pop(farewell.ifindex, None)
            tunnel = before[0] if before else tunnels.get(farewell.name)
            if tunnel is not None:
                self._add(tunnel, farewell.received.less(before[1] if before else Received()))
                dated.add(tunnel)
        for link, tunnel in tunnels.items():
            now = counted.get(link)
            if now is None:
                continue
            known = self._last.get(now.ifindex)
            self._add(tunnel, now.received.less(known[1] if known else Received()))
            if known or tunnel in self._readings:  # else it came at some time unknown
                dated.add(tunnel)
            self._last[now.ifindex] = (tunnel, now.received)
        wanted = set(tunnels.values())
        self._last = {index: entry for index, entry in self._last.items() if entry[0] in wanted}
        self._totals = {tunnel: self._totals.get(tunnel, Received()) for tunnel in wanted}
        self._readings = {
            tunnel: self._net(tunnel, (own or {}).get(tunnel, Count()), dated=tunnel in dated)
            for tunnel in sorted(wanted)
        }
        return self._readings

    def _add(self, tunnel: str, more: Received) -> None:
        self._totals[tunnel] = self._totals.get(tunnel, Received()).plus(more)

    def _net(self, tunnel: str, own: Count, *, dated: bool) -> Reading:
        """What others sent. Two counters read one after the other may differ by a packet; it never steps back."""
        before = self._readings.get(tunnel, Reading())
        total = self._totals[tunnel]
        packets = max(total.packets - own.packets, before.received.packets)
        size = max(total.bytes - own.bytes, before.received.bytes)
        grew = dated and packets > before.received.packets
        return Reading(total._replace(packets=packets, bytes=size), self._wall() if grew else before.grew_at)
