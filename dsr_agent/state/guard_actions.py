"""What can be done about the guard's table; see `actions`."""

from __future__ import annotations

from dataclasses import dataclass

from dsr_agent.state.model import GUARD, GuardKey, Key
from dsr_agent.state.table import Table
from dsr_agent.state.why import Why


@dataclass(frozen=True, slots=True)
class WriteGuard:
    """
    Bring the guard's table to *table*, by *commands* (JSON, one transaction). *what* is what changes, in words.

    Making it takes nothing away from anybody else's table. Where it guards no more, the tunnels (*after*) go first.
    """

    table: Table
    commands: tuple[str, ...]
    what: str
    why: Why = Why.MISSING
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> GuardKey:
        return GUARD

    @property
    def needs(self) -> tuple[Key, ...]:
        return self.after

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class HoldGuard:
    """
    Own the guard's table for as long as this process lives, where the kernel can: nobody else can change it then.

    *commands* make it anew, where it cannot be owned as it is.
    """

    commands: tuple[str, ...]
    why: Why = Why.KEPT

    @property
    def key(self) -> GuardKey:
        return GUARD

    @property
    def needs(self) -> tuple[Key, ...]:
        return (GUARD,)

    def __str__(self) -> str:
        return "hold the guard, so that nobody else can change it"


@dataclass(frozen=True, slots=True)
class RemoveGuard:
    """Take the guard's table away, once the tunnels (*after*) are gone."""

    commands: tuple[str, ...]
    why: Why = Why.UNWANTED
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> GuardKey:
        return GUARD

    @property
    def needs(self) -> tuple[Key, ...]:
        return self.after

    def __str__(self) -> str:
        return "remove the guard"
