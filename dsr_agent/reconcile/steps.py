"""The parts of a plan while it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsr_agent.state.actions import Action, Problem
from dsr_agent.state.errors import Foreign
from dsr_agent.state.model import Address, AddressKey, Key, Observed


@dataclass
class Steps:
    """
    The parts of a plan while it is made; `plan` puts them in order.

    Tunnels come up *after* those are in place; VIPs that come over a segment wait for its *silence*, and those that are
    *blocked* cannot be had where the file says.
    """

    first: list[Action] = field(default_factory=list)
    vips: list[Action] = field(default_factory=list)
    links: list[Action] = field(default_factory=list)
    last: list[Action] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    after: tuple[Key, ...] = ()
    blocked: frozenset[AddressKey] = frozenset()
    silence: Mapping[AddressKey, tuple[Key, ...]] = field(default_factory=dict)

    def cannot(self, keys: Iterable[Key]) -> bool:
        """Whether one of *keys* cannot be had, because somebody else's things are in its place."""
        foreign = {problem.key for problem in self.problems if isinstance(problem.error, Foreign)}
        return not foreign.isdisjoint(keys)


def differs(wanted: Address, found: Address, observed: Observed) -> bool:
    """
    Whether what can be set in place differs: mark and lifetimes.

    Scope and label of an IPv4 address cannot be changed without taking it away for a moment, and are not worth that.
    """
    proto = observed.keeps_proto and found.proto != wanted.proto
    return proto or not found.permanent or (found.ip.version == 6 and found.deprecated != wanted.deprecated)
