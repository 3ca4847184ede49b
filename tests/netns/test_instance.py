"""One agent at a time, and anybody may ask which."""

from __future__ import annotations

import asyncio
import os

from dsr_agent.service.instance import Instance, running


async def test_it_can_be_asked_any_number_of_times() -> None:
    assert running() is None
    instance = Instance()
    for _ in range(200):
        assert running() == os.getpid()
        await asyncio.sleep(0)
    second = Instance()
    assert second.taken == os.getpid()
    second.close()
    instance.close()
    assert running() is None


async def test_one_that_is_stuck_keeps_nobody_waiting() -> None:
    instance = Instance()
    for _ in range(200):  # and it never gets to turn anybody away
        running()
    instance.close()
