"""
Who drains and holds VIPs: keeps it on the board and in small files, so that a restart of the agent changes nothing.

Asked by the HTTP server's thread, and by one of the loop's workers when a span ends by itself; never both at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from dsr_agent.service.board import Board
from dsr_agent.service.journal import Fields, Kind, carrying
from dsr_agent.state.model import Ip
from dsr_agent.truth.spans import DamagedError, Span, Spans, read, text_of

log = logging.getLogger("dsr_agent")

# Ten years: the end of it is still a date.
LONGEST = 10 * 366 * 86400.0

DEFAULT_DIRECTORY = "/var/lib/dsr-agent"

# The wall clock may be set: never sleep past more of it than this.
_LONGEST_SLEEP = 30.0
_NAMED = 10


class SpanKind(NamedTuple):
    """What can be asked for VIPs: how a VIP is called then, what ends it, where it is kept, and how it is logged."""

    past: str
    ends: str
    file: str
    began: Kind
    ended: Kind


DRAIN = SpanKind("drained", "undrains", "drains.json", Kind.DRAINED, Kind.UNDRAINED)
HOLD = SpanKind("held", "releases", "holds.json", Kind.HELD, Kind.RELEASED)


def place(asked: SpanKind, environ: Mapping[str, str]) -> Path:
    """The file, below the directory that systemd made for the service; of several, the first."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(directory or DEFAULT_DIRECTORY, asked.file)


class UnreadableError(Exception):
    """What was kept cannot be read; says why."""


def kept(path: Path) -> Spans:
    """What the file at *path* says. Raises `UnreadableError`."""
    try:
        return read(path.read_text("utf-8"))
    except FileNotFoundError:
        return Spans()
    except (OSError, UnicodeDecodeError, DamagedError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UnreadableError(str(why)) from None


class SpanKeeper:
    """Keeps what was *asked* in a file at *path*, and hands it to *show* whenever it changes."""

    def __init__(self, asked: SpanKind, board: Board, path: Path, show: Callable[[Spans], None]) -> None:
        self.asked = asked
        self.spans = Spans()
        self._board = board
        self._path = path
        self._show = show
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self.changed = asyncio.Event()
        """Set in the loop when something began or ended; for one other to wait for, and to clear."""

    def load(self) -> None:
        """Take over what was kept. A file that cannot be read is told and left aside: there is nothing then."""
        try:
            spans = kept(self._path)
        except UnreadableError as error:
            text = f"{self._path} cannot be read, so nothing is {self.asked.past}: {error}"
            log.error("%s", text, extra=carrying(self.asked.ended))
            return
        self.spans = spans
        self._show(spans)
        if current := spans.current(self._board.wall()):
            ips = sorted(current.vips, key=_order)
            text = _named(ips, current.host)
            log.info("still %s: %s", self.asked.past, text, extra=carrying(self.asked.began, _fields(ips)))

    def begin(self, ips: Collection[Ip], seconds: float | None) -> str:
        """For these, or the host if none is named. Why it cannot be kept over a restart; empty if it is."""
        now = self._board.wall()
        until = None if seconds is None else now + seconds
        with self._lock:
            trouble = self._put(self.spans.current(now).plus(ips, Span(now, until)))
        end = f"until somebody {self.asked.ends}" if until is None else f"until {moment(until)}"
        text = f"{self.asked.past} {end}: {_named(ips, not ips)}"
        log.info("%s", text, extra=carrying(self.asked.began, _fields(ips)))
        return trouble

    def end(self, ips: Collection[Ip]) -> str:
        """End it for these, or for all if none is named. Why that cannot be kept; empty if it is."""
        declared = [key.ip for key in self._board.overview.desired.vips]
        with self._lock:
            before = self.spans.current(self._board.wall())
            trouble = self._put(before.minus(ips, declared))
        if before:
            text = f"no longer {self.asked.past}: {_named(ips, not ips)}"
            log.info("%s", text, extra=carrying(self.asked.ended, _fields(ips)))
        return trouble

    async def watch(self) -> None:
        """Say so when a span has ended by itself (it has, for those who ask, to the moment); until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = self._board.wall()
            end = self.spans.next_end()
            if end is not None and end <= now:
                await asyncio.to_thread(self._expire, now)
                continue
            with contextlib.suppress(TimeoutError):
                wait = None if end is None else min(end - now, _LONGEST_SLEEP)
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def _expire(self, now: float) -> None:
        with self._lock:
            before = self.spans
            after = before.current(now)
            if after == before:
                return
            self._put(after)
        ips = sorted(before.vips.keys() - after.vips.keys(), key=_order)
        host = before.host and not after.host
        text = f"no longer {self.asked.past}, its time is over: {_named(ips, host)}"
        log.info("%s", text, extra=carrying(self.asked.ended, _fields(ips)))

    def _put(self, spans: Spans) -> str:
        self.spans = spans
        self._show(spans)
        if self._loop:
            with contextlib.suppress(RuntimeError):  # it is ending
                self._loop.call_soon_threadsafe(self._changed.set)
                self._loop.call_soon_threadsafe(self.changed.set)
        try:
            write_whole(self._path, text_of(spans))
        except OSError as error:
            why = f"{self._path}: {error.strerror}"
            log.warning("this will not outlive the agent, because it cannot be kept: %s", why, extra=_WARNED)
            return why
        return ""


class Keepers(NamedTuple):
    """One for each thing that can be asked for."""

    drains: SpanKeeper
    holds: SpanKeeper


_WARNED = carrying(Kind.WARNED)


def write_whole(path: Path, text: str) -> None:
    """All of it or none, whatever happens meanwhile."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # so that the new name is there after a power failure, too
    finally:
        os.close(folder)


def moment(seconds: float) -> str:
    """Seconds since 1970, as the wall clock here shows them."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(" ", "seconds")


def _order(ip: Ip) -> tuple[int, int]:
    return ip.version, int(ip)


def _named(ips: Collection[Ip], host: object) -> str:
    named = list(ips)
    words = ["all VIPs"] if host else []
    words += [f"VIP {ip}" for ip in named[:_NAMED]]
    words += [f"{len(named) - _NAMED} more"] if len(named) > _NAMED else []
    return ", ".join(words)


def _fields(ips: Collection[Ip]) -> Fields:
    return tuple(("VIP", str(ip)) for ip in list(ips)[:900])
