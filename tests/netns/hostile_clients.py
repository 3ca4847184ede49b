"""
Clients that misbehave, a bounded number for a bounded time.

``python -m tests.netns.hostile_clients PORT HOW_MANY SECONDS``

Some trickle a header, some ask for everything and never read, some send headers without end, some talk nonsense, some
connect and say nothing, and some come and go as fast as they can. Says ``here`` when all of them have begun.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle, islice

END_OF_PATIENCE = 15.0


class _Rowdy:
    def __init__(self, port: int, until: float) -> None:
        self._port = port
        self._until = until

    def _time_left(self, at_most: float = END_OF_PATIENCE) -> float:
        return max(min(self._until - time.monotonic(), at_most), 0.0)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self._port, limit=1024), 5)

    async def trickle(self) -> None:
        _, writer = await self._connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
        while self._time_left() and not writer.is_closing():
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.3)
        writer.close()

    async def never_read(self) -> None:
        _, writer = await self._connect()
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(self._time_left())
        writer.close()

    async def huge(self) -> None:
        _, writer = await self._connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        for _ in range(500):
            writer.write(b"X: " + b"a" * 8000 + b"\r\n")
            await writer.drain()
        writer.close()

    async def nonsense(self) -> None:
        reader, writer = await self._connect()
        writer.write(b"\x16\x03\x01\x00\xff NOT HTTP AT ALL\r\n\r\n" * 5)
        await writer.drain()
        await asyncio.wait_for(reader.read(100), 5)
        writer.close()
        await asyncio.sleep(0.02)

    async def silent(self) -> None:
        reader, writer = await self._connect()
        await asyncio.wait_for(reader.read(1), self._time_left())
        writer.close()

    async def hasty(self) -> None:
        reader, writer = await self._connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.read(100), 5)
        writer.transport.abort()


async def _keep(doing: Callable[[], Awaitable[None]], until: float, begun: asyncio.Event) -> None:
    while time.monotonic() < until:
        try:
            await doing()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.02)
        begun.set()


async def rage(port: int, how_many: int, seconds: float) -> None:
    """All kinds of them, in turn."""
    until = time.monotonic() + seconds
    rowdy = _Rowdy(port, until)
    kinds = [rowdy.trickle, rowdy.never_read, rowdy.huge, rowdy.nonsense, rowdy.silent, rowdy.hasty]
    begun = asyncio.Event()
    tasks = [asyncio.create_task(_keep(kind, until, begun)) for kind in islice(cycle(kinds), how_many)]
    await begun.wait()
    print("here", flush=True)
    await asyncio.wait(tasks, timeout=seconds + 1)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(rage(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
