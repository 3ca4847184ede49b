"""Time that passes when told: a minute of the agent's life takes a millisecond."""

from __future__ import annotations

import asyncio
from typing import Any

_RESTLESS = 20_000


class FakeClock:
    """See `reconcile.loop.Clock`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleeping: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        """The time now."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has gone so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + seconds, alarm)
        self._sleeping.append(entry)
        try:
            await alarm
        finally:
            self._sleeping.remove(entry)

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass, waking every sleeper at its own time, and let everybody finish what they do then."""
        end = self._now + seconds
        await self.settle()
        while due := min((at for at, alarm in self._sleeping if at <= end and not alarm.done()), default=None):
            self._now = max(due, self._now)
            for at, alarm in self._sleeping:
                if at <= due and not alarm.done():
                    alarm.set_result(None)
            await self.settle()
        self._now = end

    async def settle(self) -> None:
        """Let every task run until all of them wait for something."""
        loop: Any = asyncio.get_running_loop()
        for _ in range(_RESTLESS):
            await asyncio.sleep(0)
            if not loop._ready:
                return
        raise AssertionError("this never comes to rest: some task runs round and round without waiting")
