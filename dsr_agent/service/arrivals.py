"""
Reads what still arrives for VIPs that are drained: only while something is, and aside from the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from dsr_agent.kernel.guard_counts import GuardCounts
from dsr_agent.service.board import Board
from dsr_agent.truth.arrivals import Arrivals

_EVERY = 2.0
_LONGEST = 30.0
# Reading the counters of 10,000 VIPs takes a while: never spend more than a tenth of the time on it.
_SHARE = 10


async def watch(board: Board, changed: asyncio.Event) -> None:
    """Keep `Board.arrivals` true, until cancelled; *changed* says that somebody drained or undrained."""
    arrivals = Arrivals()
    counts = GuardCounts()
    while True:
        changed.clear()
        overview, now = board.overview, board.wall()
        drained = [key.ip for key in overview.desired.vips if board.drains.of(key.ip, now)]
        took = 0.0
        if drained and overview.desired.guard and overview.observed.guard.table is not None:
            began = time.monotonic()
            found = await asyncio.to_thread(counts.read)
            took = time.monotonic() - began
            board.arrivals = {} if found is None else arrivals.look(drained, found, board.wall())
        else:
            arrivals, board.arrivals = Arrivals(), {}
        rest = _LONGEST if board.drains else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_EVERY, took * _SHARE) if drained else rest):
                await changed.wait()
