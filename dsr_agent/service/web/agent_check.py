"""
HAProxy's agent check: whoever connects may say which VIP it is about, and is told in one line how that is.

The line is made of HAProxy's words (configuration manual, "agent-check"; src/check.c): ``up ready``, ``up drain``,
``down #why``, ``down drain #why``. It always says how it is and what is wanted, but for *down* that nobody asked for:
HAProxy keeps an administrative state until it is told another one. The sharp begins a word of its own, because
HAProxy takes ``down#why`` for a word that it does not know.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import cast

from dsr_agent.service.readiness import About, NotReady
from dsr_agent.service.web.connections import Connections

# HAProxy without agent-send says nothing: so long it is waited for a line, in seconds. Long enough for a packet that is
# lost and sent again (200 ms), so that nobody is told about something else for that; HAProxy waits for its agent-inter,
# 2 s if nobody changes it.
PATIENCE = 0.3
_LONGEST_QUESTION = 256
_LONGEST_REASON = 160


def line(why: Sequence[NotReady]) -> str:
    """What is answered about something that is not ready for these reasons, or ready if there is none."""
    lacking = [reason for reason in why if reason.about is not About.DRAINED]
    drain = " drain" if len(lacking) < len(why) else ""
    if not lacking:
        return f"up{drain or ' ready'}"
    first = lacking[0]
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    text = first.text if first.text == first.about else f"{first.about}: {first.text}"
    return f"down{drain} #{_plain(text)}{more}"


def unknown(name: str) -> str:
    """What is answered about a VIP that there is not."""
    return f"down #{_plain(f'no VIP of that name or address: {name}')}"


def _plain(text: str) -> str:
    """One short line of ASCII."""
    printable = "".join(letter if " " <= letter <= "~" else " " for letter in text)
    return " ".join(printable.split())[:_LONGEST_REASON]


class AgentChecks:
    """Answers on its sockets what *answer* says about a VIP's address or name, or about the whole host ("")."""

    def __init__(self, answer: Callable[[str], str], connections: Connections) -> None:
        self._answer = answer
        self._connections = connections
        self._servers: list[asyncio.Server] = []

    async def add_sockets(self, opened: Sequence[socket.socket]) -> None:
        """Serve these, too."""
        loop = asyncio.get_running_loop()
        for each in opened:
            made = await loop.create_server(lambda: _Check(self._answer, self._connections), sock=each)
            self._servers.append(made)

    def stop(self) -> None:
        """Listen no longer; who is connected is answered."""
        for each in self._servers:
            each.close()


class _Check(asyncio.Protocol):
    """One connection: a line at most comes, one line goes, and that is all."""

    def __init__(self, answer: Callable[[str], str], connections: Connections) -> None:
        self._of = answer
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._connections.enter(self, peer[0] if peer else "")
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._answer)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._asked += data[:_LONGEST_QUESTION]
        if b"\n" in self._asked or len(self._asked) >= _LONGEST_QUESTION:
            self._answer()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`; whoever has said all there is may still be told."""
        self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._timer:
            self._timer.cancel()
        self._connections.leave(self)

    def close(self) -> None:
        """See `connections.Connection`."""
        if self._transport:
            self._transport.abort()

    def _answer(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        name = self._asked.partition(b"\n")[0][:_LONGEST_QUESTION].decode("utf-8", "replace").strip()
        self._transport.write(self._of(name).encode("ascii", "replace") + b"\n")
        self._transport.close()
