"""What the self-test has found, for everybody else in this process. The loop writes; others read whole values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsr_agent.guard.counters import Count
from dsr_agent.state.model import Ip
from dsr_agent.state.probe import Sight
from dsr_agent.truth.findings import said
from dsr_agent.truth.probe import Pair
from dsr_agent.truth.reach import Reach, Reached


@dataclass
class Probes:
    """
    *off* says why there is no self-test. *reaches* are all that were reached, *fallen* what is said of each that has
    fallen, by VIP. *silent* is why packets could not be sent, lately.
    *own* is what tunnels have counted of it where no guard counts; *pairs*, how many are tried.

    The three maps change while they are looked at: take a `copy` before walking one.
    """

    off: str = "it has not begun yet"
    pairs: int = 0
    sent: int = 0
    lost: int = 0
    reaches: dict[Pair, Reach[Sight]] = field(default_factory=dict)
    fallen: dict[Ip, Mapping[str, str]] = field(default_factory=dict)
    silent: str = ""
    own: dict[str, Count] = field(default_factory=dict)

    def started(self) -> None:
        """It goes on."""
        self.off = ""

    def stopped(self, why: str) -> None:
        """Nothing is known any more."""
        self.off, self.pairs, self.silent = why, 0, ""
        self.reaches.clear()
        self.fallen.clear()

    def show(self, pair: Pair, reach: Reach[Sight] | None) -> None:
        """Another reach was reached about *pair*, or it is not tried any more (None)."""
        fallen = dict(self.fallen.get(pair.vip, {}))
        fallen.pop(pair.tunnel, None)
        if reach is None:
            self.reaches.pop(pair, None)
        else:
            self.reaches[pair] = reach
            if reach.state is Reached.FALLEN and reach.last:
                fallen[pair.tunnel] = said(reach.last)
        if fallen:
            self.fallen[pair.vip] = fallen
        else:
            self.fallen.pop(pair.vip, None)

    def take(self, tunnel: str, count: Count) -> None:
        """So much goes through *tunnel* now."""
        self.own[tunnel] = self.own.get(tunnel, Count()).plus(count)

    def give_back(self, tunnel: str, count: Count) -> None:
        """It did not."""
        before = self.own.get(tunnel, Count())
        self.own[tunnel] = Count(before.packets - count.packets, before.bytes - count.bytes)

    def reasons(self, ip: Ip) -> list[str]:
        """Why the VIP *ip* is not reached; none if it is, or nothing is known."""
        return [f"self-test by {tunnel}: {text}" for tunnel, text in self.fallen.get(ip, {}).items()]
