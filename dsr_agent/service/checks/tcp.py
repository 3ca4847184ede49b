"""A connection is asked for, and nothing more. TCP answers from where it was asked: only the VIP can."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import Target
from dsr_agent.truth.checks import Answer

_LARGEST = 1 << 16


@contextlib.asynccontextmanager
async def connected(
    target: Target, context: ssl.SSLContext | None = None, server_name: str | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, dropped at the end without waiting for the other side."""
    reader, writer = await asyncio.open_connection(
        str(target.ip),
        target.port,
        local_addr=(str(target.source), 0),
        ssl=context,
        server_hostname=server_name if context else None,
        limit=_LARGEST,
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # closing would wait for what was written to be taken


async def ask(check: CheckSettings, target: Target) -> Answer:
    """See `asking.Asker`."""
    async with asyncio.timeout(check.timeout), connected(target):
        return Answer()
