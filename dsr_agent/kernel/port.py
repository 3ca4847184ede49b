"""
The door between deciding and doing.

The reconciler sees the host through these few verbs; `host.Host` is the real kernel behind them and the tests'
`FakeKernel` the other one, and one contract suite runs over both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from dsr_agent.state.actions import Action
from dsr_agent.state.errors import DsrError
from dsr_agent.state.local import Towards
from dsr_agent.state.model import Changes, Observed, Scope
from dsr_agent.state.report import Outcome


class Kernel(Protocol):
    """The host, as far as this program is concerned."""

    async def observe(self, scope: Scope, targets: Iterable[Towards] = ()) -> Observed:
        """
        Read back what the kernel holds.

        `Scope.everything` reads all of it afresh. Otherwise links, sysctls and routes are read afresh if *scope*
        says *host*, and addresses come from the copy that announcements keep current; a copy that may have missed
        one is read afresh first. *targets* are those whose route (which source?) is asked for.
        """
        ...

    async def obstacles(self, modules: Iterable[str]) -> Mapping[str, DsrError]:
        """Why those of *modules*, which are missing, cannot be loaded either, as far as that can be said beforehand."""
        ...

    async def apply(self, actions: Sequence[Action]) -> tuple[Outcome, ...]:
        """
        Do *actions* in order; one outcome each, in the same order. Never raises for what the kernel refuses.

        Already so, or already gone, is success. One failure does not stop the rest. `observe` once before: that is
        how links get to be known.
        """
        ...

    async def changes(self) -> Changes:
        """
        Wait until the kernel announces something (or announcements were lost), then return all that has come.

        What this process did itself is left out where the kernel says who asked (IPv4 addresses); elsewhere it costs
        one more look that finds nothing to do. Cancelling it loses nothing.
        """
        ...

    async def who(self, port: int) -> str:
        """The process behind a netlink port of `Changes.by`, in words; empty if it cannot be known."""
        ...
