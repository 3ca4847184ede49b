"""The one value that leaves a pass: what was planned, how each step went, and what is still not as desired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dsr_agent.state.actions import Action, Plan, Problem
from dsr_agent.state.errors import DsrError
from dsr_agent.state.model import Desired, Key, Observed, Scope


class PassCause(StrEnum):
    """Why there was a pass."""

    START = "start"
    RELOAD = "reload"
    DRIFT = "drift"  # something was announced, or found by a regular look
    RETRY = "retry"  # an earlier pass left something undone
    HOLD = "hold"  # somebody held VIPs, or released them


class Result(StrEnum):
    """How a step went."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  # something it needs failed or is held back
    HELD = "held"  # a fight: repaired too often, waiting before the next try


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step and how it went; *error* says why it was not done."""

    action: Action
    result: Result
    error: DsrError | None = None

    def __str__(self) -> str:
        return f"{self.action}: {self.result}" + (f" ({self.error})" if self.error else "")


@dataclass(frozen=True, slots=True)
class Report:
    """
    One pass.

    *remaining* is the plan made again from a second look after the steps: empty means that the kernel now holds what
    the file says (as far as *scope* went). *seconds* counts from the first look to the last acknowledgement.
    *by* names who undid a key, where the kernel told. *fights* are the keys that somebody keeps undoing, and how often
    they were repaired lately. *desired* is what the pass went by, and *observed* the last look, if the kernel let
    itself be looked at.
    """

    scope: Scope
    cause: PassCause = PassCause.DRIFT
    plan: Plan = field(default_factory=Plan)
    outcomes: tuple[Outcome, ...] = ()
    remaining: Plan = field(default_factory=Plan)
    seconds: float = 0.0
    by: Mapping[Key, str] = field(default_factory=dict)
    fights: Mapping[Key, int] = field(default_factory=dict)
    lost: bool = False
    desired: Desired = field(default_factory=Desired)
    observed: Observed | None = None

    @property
    def in_sync(self) -> bool:
        """Whether nothing is left to do in this pass's scope."""
        return not self.remaining

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is still not as desired, with the reason: impossible, failed or held back."""
        blamed = [
            Problem(outcome.action.key, outcome.error)
            for outcome in self.outcomes
            if outcome.error and outcome.result in (Result.FAILED, Result.HELD)
        ]
        return self.remaining.problems + tuple(blamed)
