"""
Whether the network namespace that the file names is still the one that this process works in.

Who deletes a namespace deletes its name: what is in it lives on as long as somebody works there, and this process does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dsr_agent.kernel.netns import Name, name_of_ours, path_of
from dsr_agent.service.journal import Kind, carrying
from dsr_agent.state.errors import NotYet

log = logging.getLogger("dsr_agent")


async def replaced(netns: str, pause: Callable[[], float]) -> NotYet:
    """
    Wait until another namespace is called *netns*, looking every *pause* seconds; return what is to be said then.

    Says once when no namespace is called so.
    """
    last = Name.KEPT
    while (now := name_of_ours(netns)) is not Name.TAKEN:
        if now is not last and now is Name.GONE:
            log.warning(
                "network namespace %s was deleted (no %s any more); what is in it stays until this agent ends",
                netns,
                path_of(netns),
                extra=carrying(Kind.WARNED),
            )
        last = now
        await asyncio.sleep(pause())
    problem = f"network namespace {netns} was made anew, and this agent is in the old one"
    return NotYet(problem, "start it again (systemd does so by itself)")
