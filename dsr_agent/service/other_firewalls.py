"""
Says when another firewall of this host drops what the guard lets in.

A few packets of the real traffic are followed through the packet filter: once a minute, and soon after somebody
changed their rules. Aside from the loop, which never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os

from dsr_agent.kernel.host import Host
from dsr_agent.kernel.trace import ForeignDrop, Requests, foreign_chains, foreign_drops
from dsr_agent.reconcile.bare import over_segments
from dsr_agent.service.board import Board
from dsr_agent.service.journal import Kind, carrying
from dsr_agent.state.model import Desired

log = logging.getLogger("dsr_agent")

_EVERY = 60.0
_WATCH = 3.0
_SETTLE = 0.5


async def watch(board: Board, host: Host) -> None:
    """Keep `Board.foreign_drops` true, until cancelled."""
    while True:
        if board.overview.observed.guard.table is not None:
            await _look(board)
        try:
            async with asyncio.timeout(_EVERY):
                await host.rules_changed.wait()
            host.rules_changed.clear()
            await asyncio.sleep(_SETTLE)  # whoever writes rules often writes more than once
        except TimeoutError:
            continue


async def _look(board: Board) -> None:
    try:
        if await asyncio.to_thread(foreign_chains):
            seen, drops = await _follow(requests(board.overview.desired))
        else:
            seen, drops = 1, []
    except OSError as error:
        log.debug("cannot follow packets through other firewalls: %s", error)
        return
    if not seen and not drops:
        return  # no traffic: nothing to be known
    found = tuple(sorted({str(drop) for drop in drops}))
    before = {text.partition(" drops ")[0] for text in board.foreign_drops}
    for text in found:
        if text.partition(" drops ")[0] not in before:
            message = f"another firewall drops what the guard lets in: {text}"
            log.warning("%s", message, extra=carrying(Kind.WARNED))
    board.foreign_drops = found


def requests(desired: Desired) -> Requests:
    """By what the requests are known that *desired* expects."""
    return Requests(
        frozenset(tunnel.port for tunnel in desired.tunnels.values() if tunnel.port is not None),
        frozenset(vip.dscp for vip in desired.vips.values() if vip.dscp is not None),
        tuple(key.ip for key in over_segments(desired)),
    )


async def _follow(sought: Requests) -> tuple[int, list[ForeignDrop]]:
    """`foreign_drops`, which ends when this is cancelled: who stops the agent would have to wait for its thread."""
    ended = os.eventfd(0)
    following = asyncio.create_task(asyncio.to_thread(foreign_drops, _WATCH, sought, ended=ended))
    try:
        return await asyncio.shield(following)
    except asyncio.CancelledError:
        os.eventfd_write(ended, 1)
        await asyncio.wait([following])
        raise
    finally:
        os.close(ended)
