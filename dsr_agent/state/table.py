"""
The guard: what the file wants of it, and its table in the kernel's packet filter (nftables), as values.

Rules and elements are texts: the JSON of `libnftables-json(5)` in one fixed form (`canonical`), without what the kernel
adds (handles, counts), so that what was asked for and what is read back are equal when they mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsr_agent.state.errors import DsrError

FAMILY, NAME = "inet", "dsr_agent"


def canonical(value: Any) -> str:
    """The one text for *value*, a piece of nftables' JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class SetShape:
    """What cannot be changed about a set once it is there. *size* is the number of elements it has room for."""

    type: tuple[str, ...]
    size: int = 0
    interval: bool = False
    counted: bool = False


@dataclass(frozen=True, slots=True)
class FilterSet:
    """A set of addresses, or of combinations of them."""

    shape: SetShape
    elements: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Chain:
    """
    Rules, and where in a packet's way they are asked; without a *hook*, only when another chain sends it here.

    *policy* is what becomes of a packet about which no rule decides.
    """

    rules: tuple[str, ...] = ()
    hook: str = ""
    priority: int = 0
    type: str = "filter"
    policy: str = "accept"

    @property
    def place(self) -> tuple[str, int, str, str]:
        """Everything but the rules: a chain that differs here is made anew."""
        return self.hook, self.priority, self.type, self.policy


@dataclass(frozen=True, slots=True)
class Table:
    """
    The whole table.

    *strangers* are what is about it that we never make: objects by kind and name, and flags such as ``dormant``.
    """

    sets: Mapping[str, FilterSet] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    chains: Mapping[str, Chain] = field(default_factory=dict)
    strangers: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """
    How strict the guard is.

    *required*: without it no tunnel is brought up. *services*: only to the services that a VIP declares, if it
    declares any. *mss*: the largest TCP segment that clients are told, None for what fits the encapsulation, 0 for no
    word about it.
    """

    required: bool = True
    services: bool = False
    mss: int | None = None


@dataclass(frozen=True, slots=True)
class ObservedGuard:
    """
    What the kernel holds of the guard.

    *held*: the table is owned by a process, and the kernel lets nobody else change it (Linux 6.9, nftables 1.1).
    *can_hold*: this process is to own it and does not. *unavailable* says why nothing can be known or done.
    """

    table: Table | None = None
    held: bool = False
    can_hold: bool = False
    unavailable: DsrError | None = None
