"""When a pair counts as fallen: after so many results in a row, never after one lost packet. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from dsr_agent.state.probe import Seen, Sight


class Standing(Enum):
    """How a pair stands."""

    UNTRIED = None
    UP = True
    FALLEN = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """*standing*, the *last* result that said something, and how many in a row spoke against the standing."""

    standing: Standing = Standing.UNTRIED
    last: Sight | None = None
    against: int = 0

    def after(self, sight: Sight, fall: int, rise: int) -> Verdict:
        """The verdict once *sight* is known."""
        if sight.silent:
            return self
        good = sight.what is Seen.ARRIVED
        if self.standing.value is good:
            return replace(self, last=sight, against=0)
        against = self.against + 1 if self._spoke(good) else 1
        if self.standing is Standing.UNTRIED and good:
            return Verdict(Standing.UP, sight)
        if against >= (rise if good else fall):
            return Verdict(Standing.UP if good else Standing.FALLEN, sight)
        return replace(self, last=sight, against=against)

    def _spoke(self, good: bool) -> bool:
        """Whether the last result said the same."""
        return self.last is not None and (self.last.what is Seen.ARRIVED) is good

    @property
    def doubtful(self) -> bool:
        """Whether the next result may change the standing soon: worth asking again before long."""
        return self.against > 0
