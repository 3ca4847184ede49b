"""The steady clock of this host."""

from __future__ import annotations

import asyncio
import time


class SteadyClock:
    """`reconcile.loop.Clock`, for real."""

    def now(self) -> float:
        """Seconds since some moment; never steps back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait without keeping anything from running."""
        await asyncio.sleep(seconds)
