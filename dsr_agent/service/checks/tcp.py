"""A connection is asked for, and nothing more. TCP answers from where it was asked: only the VIP can."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import Target, bound
from dsr_agent.truth.checks import Answer

_LARGEST = 1 << 16


@contextlib.asynccontextmanager
async def connected(
    target: Target, context: ssl.SSLContext | None = None, server_name: str | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, dropped at the end without waiting for the other side."""
    opened = await _connect(target)
    reader, writer = await asyncio.open_connection(
        sock=opened, ssl=context, server_hostname=server_name if context else None, limit=_LARGEST
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # closing would wait for what was written to be taken


async def _connect(target: Target) -> socket.socket:
    family = socket.AF_INET6 if target.ip.version == 6 else socket.AF_INET
    opened = bound(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC), target)
    try:
        await asyncio.get_running_loop().sock_connect(opened, (str(target.ip), target.port))
    except BaseException:
        opened.close()
        raise
    return opened


async def ask(check: CheckSettings, target: Target) -> Answer:
    """See `asking.Asker`."""
    async with asyncio.timeout(check.timeout), connected(target):
        return Answer()
