"""
What can be done to the host, one value per step; `str()` of each is the line that `dsr-agent plan` prints.

A `Plan` is an ordered tuple of these. Each action names the `key` it changes and the keys it `needs` to be in place
first, so that the dependants of a failed action can be skipped with the reason. Asking for what is already so, and
deleting what is already gone, is success (the doers hold this promise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from dsr_agent.state.errors import DsrError
from dsr_agent.state.guard_actions import HoldGuard, RemoveGuard, WriteGuard
from dsr_agent.state.model import (
    Address,
    AddressKey,
    Key,
    Link,
    LinkKey,
    ModuleKey,
    Sysctl,
    SysctlKey,
)
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.why import Why


@dataclass(frozen=True, slots=True)
class LoadModule:
    """
    Ask for a module before the link that needs it.

    A courtesy, never a condition: where this process may not load modules, creating the link makes the kernel do it
    (facts A6), and a link that cannot be had says why itself.
    """

    name: str
    why: Why = Why.MISSING

    @property
    def key(self) -> ModuleKey:
        return ModuleKey(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    def __str__(self) -> str:
        return f"load module {self.name}"


@dataclass(frozen=True, slots=True)
class AddLink:
    """Create *link*, down, carrying our group in the same request (so that no crash leaves it unmarked)."""

    link: Link
    why: Why = Why.MISSING

    @property
    def key(self) -> LinkKey:
        return self.link.key

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    def __str__(self) -> str:
        where = f" in VRF {self.link.master}" if self.link.master else ""
        return f"add {self.link.kind} tunnel {self.link.name} {self.link.outer}{where}"


@dataclass(frozen=True, slots=True)
class ChangeLink:
    """Change the outer header that *link* looks for, in place, without losing a packet (facts A8)."""

    link: Link
    why: Why = Why.MISSING

    @property
    def key(self) -> LinkKey:
        return self.link.key

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    def __str__(self) -> str:
        return f"change tunnel {self.link.name} in place to {self.link.outer}"


@dataclass(frozen=True, slots=True)
class MarkLink:
    """Give a link our group and our alias: after it was created, when it is adopted, and when its mark was wiped."""

    name: str
    group: int
    alias: str
    why: Why = Why.MISSING

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (self.key,)

    def __str__(self) -> str:
        return f"mark {self.name} as ours"


@dataclass(frozen=True, slots=True)
class RenameLink:
    """Give a link its name back, or give the stand-in of a replaced link the name of what it replaced."""

    name: str
    to: str
    why: Why = Why.MISSING

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.to)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (LinkKey(self.name),)

    def __str__(self) -> str:
        return f"rename {self.name} to {self.to}"


@dataclass(frozen=True, slots=True)
class MoveLink:
    """Have a link belong to a VRF, or (empty) to none: what comes out of it is looked up in the routes of that."""

    name: str
    vrf: str
    why: Why = Why.MISSING

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (self.key,)

    def __str__(self) -> str:
        return f"put {self.name} into VRF {self.vrf}" if self.vrf else f"take {self.name} out of what it belongs to"


@dataclass(frozen=True, slots=True)
class BringUp:
    """Set a link up."""

    name: str
    why: Why = Why.MISSING
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (self.key, *self.after)

    def __str__(self) -> str:
        return f"bring {self.name} up"


@dataclass(frozen=True, slots=True)
class TakeDown:
    """Set a link down that is up by mistake: a device that the kernel made by itself."""

    name: str
    why: Why = Why.FALLBACK

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    def __str__(self) -> str:
        return f"take {self.name} down"


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Remove a link of ours, once what replaces it (*after*) is in place."""

    name: str
    why: Why = Why.MISSING
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return self.after

    def __str__(self) -> str:
        return f"delete tunnel {self.name}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Add an address, marked as ours, once what has to be so before (*after*) is."""

    address: Address
    why: Why = Why.MISSING
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> AddressKey:
        return self.address.key

    @property
    def needs(self) -> tuple[Key, ...]:
        return (LinkKey(self.address.link), *self.after)

    def __str__(self) -> str:
        return f"add {self.address}"


@dataclass(frozen=True, slots=True)
class ReplaceAddress:
    """Set mark and lifetimes of an address that is there, in place: adoption, and repair of a wiped mark."""

    address: Address
    why: Why = Why.MISSING

    @property
    def key(self) -> AddressKey:
        return self.address.key

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    def __str__(self) -> str:
        return f"mark {self.address} as ours"


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Remove an address of ours, once what takes its place (*after*) is there."""

    address: Address
    why: Why = Why.MISSING
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> AddressKey:
        return self.address.key

    @property
    def needs(self) -> tuple[Key, ...]:
        return self.after

    def __str__(self) -> str:
        return f"delete {self.address}"


@dataclass(frozen=True, slots=True)
class WriteSysctl:
    """Write a sysctl of a link of ours, or raise one that keeps this host from answering ARP for a VIP."""

    sysctl: Sysctl
    link: str
    why: Why = Why.MISSING

    @property
    def key(self) -> SysctlKey:
        return self.sysctl.key

    @property
    def needs(self) -> tuple[Key, ...]:
        return (LinkKey(self.link),)

    def __str__(self) -> str:
        return f"set {self.sysctl.path} = {self.sysctl.value}"


Action: TypeAlias = (
    LoadModule
    | WriteGuard
    | HoldGuard
    | RemoveGuard
    | AddLink
    | ChangeLink
    | MarkLink
    | RenameLink
    | MoveLink
    | BringUp
    | TakeDown
    | DeleteLink
    | AddPort
    | DeletePort
    | AddAddress
    | ReplaceAddress
    | DeleteAddress
    | WriteSysctl
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something desired that no action can bring about now, and why."""

    key: Key
    error: DsrError

    def __str__(self) -> str:
        return f"{self.key}: {self.error}"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The steps from observed to desired, in order, and what cannot be had. Empty means in sync.

    *warnings* are what an operator should know although all is as the file says.
    """

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions or self.problems)

    def __str__(self) -> str:
        lines = [str(action) for action in self.actions] + [f"cannot: {problem}" for problem in self.problems]
        return "\n".join(lines)
