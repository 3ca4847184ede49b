"""When something counts as fallen: after so many results in a row, never after one that was lost. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, Protocol, TypeVar


class Attempt(Protocol):
    """What one try came to: a packet of the self-test, a question to an application."""

    @property
    def good(self) -> bool | None:
        """Whether it speaks for or against; None if it says nothing."""


R = TypeVar("R", bound=Attempt)


class Reached(Enum):
    """How it stands."""

    UNTRIED = None
    UP = True
    FALLEN = False


@dataclass(frozen=True, slots=True)
class Reach(Generic[R]):
    """*state*, the *last* result that said something, and how many in a row spoke against the state."""

    state: Reached = Reached.UNTRIED
    last: R | None = None
    against: int = 0

    def after(self, result: R, fall: int, rise: int) -> Reach[R]:
        """The reach once *result* is known. The first good one is enough for what was never tried."""
        good = result.good
        if good is None:
            return self
        if self.state.value is good:
            return replace(self, last=result, against=0)
        against = self.against + 1 if self.last is not None and self.last.good is good else 1
        if self.state is Reached.UNTRIED and good:
            return Reach(Reached.UP, result)
        if against >= (rise if good else fall):
            return Reach(Reached.UP if good else Reached.FALLEN, result)
        return replace(self, last=result, against=against)

    @property
    def doubtful(self) -> bool:
        """Whether the next result may change the state soon: worth asking again before long."""
        return self.against > 0
