"""When a pair counts as fallen: after so many results in a row, never after one lost packet. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from dsr_agent.state.probe import Seen, Sight


class Reached(Enum):
    """How a pair stands."""

    UNTRIED = None
    UP = True
    FALLEN = False


@dataclass(frozen=True, slots=True)
class Reach:
    """*state*, the *last* result that said something, and how many in a row spoke against the state."""

    state: Reached = Reached.UNTRIED
    last: Sight | None = None
    against: int = 0

    def after(self, sight: Sight, fall: int, rise: int) -> Reach:
        """The reach once *sight* is known."""
        if sight.silent:
            return self
        good = sight.what is Seen.ARRIVED
        if self.state.value is good:
            return replace(self, last=sight, against=0)
        against = self.against + 1 if self._spoke(good) else 1
        if self.state is Reached.UNTRIED and good:
            return Reach(Reached.UP, sight)
        if against >= (rise if good else fall):
            return Reach(Reached.UP if good else Reached.FALLEN, sight)
        return replace(self, last=sight, against=against)

    def _spoke(self, good: bool) -> bool:
        """Whether the last result said the same."""
        return self.last is not None and (self.last.what is Seen.ARRIVED) is good

    @property
    def doubtful(self) -> bool:
        """Whether the next result may change the state soon: worth asking again before long."""
        return self.against > 0
