"""
Who drains and undrains: keeps it on the board and in a small file, so that a restart of the agent changes nothing.

Asked by the HTTP server's thread, and by the loop's when a drain ends by itself; never both at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

from dsr_agent.service.board import Board
from dsr_agent.service.journal import Fields, Kind, carrying
from dsr_agent.state.model import Ip
from dsr_agent.truth.drains import DamagedError, Drain, Drains, read, text_of

log = logging.getLogger("dsr_agent")

# Ten years: the end of it is still a date.
LONGEST = 10 * 366 * 86400.0

DEFAULT_DIRECTORY = "/var/lib/dsr-agent"
FILE = "drains.json"

# The wall clock may be set: never sleep past more of it than this.
_LONGEST_SLEEP = 30.0
_NAMED = 10


def place(environ: Mapping[str, str]) -> Path:
    """The file, below the directory that systemd made for the service; of several, the first."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(directory or DEFAULT_DIRECTORY, FILE)


class DrainKeeper:
    """Keeps `Board.drains` and the file at *path* the same."""

    def __init__(self, board: Board, path: Path) -> None:
        self._board = board
        self._path = path
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self.changed = asyncio.Event()
        """Set in the loop when somebody drained or undrained; for one other to wait for, and to clear."""

    def load(self) -> None:
        """Take over what was kept. A file that cannot be read is told and left aside: nothing is drained then."""
        try:
            kept = read(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, DamagedError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            log.error("%s cannot be read, so nothing is drained: %s", self._path, why, extra=carrying(Kind.UNDRAINED))
            return
        self._board.drains = kept
        now = self._board.wall()
        if current := kept.current(now):
            ips = sorted(current.vips, key=_order)
            text = _named(ips, current.host)
            log.info("still drained: %s", text, extra=carrying(Kind.DRAINED, _fields(ips)))
        self._expire(now)

    def drain(self, ips: Collection[Ip], seconds: float | None) -> str:
        """Drain these, or the host if none is named. Why it cannot be kept over a restart; empty if it is."""
        now = self._board.wall()
        until = None if seconds is None else now + seconds
        with self._lock:
            trouble = self._put(self._board.drains.current(now).plus(ips, Drain(now, until)))
        end = "until somebody undrains" if until is None else f"until {moment(until)}"
        log.info("drained %s: %s", end, _named(ips, not ips), extra=carrying(Kind.DRAINED, _fields(ips)))
        return trouble

    def undrain(self, ips: Collection[Ip]) -> str:
        """End the drain of these, or of all if none is named. Why that cannot be kept; empty if it is."""
        declared = [key.ip for key in self._board.overview.desired.vips]
        with self._lock:
            before = self._board.drains.current(self._board.wall())
            trouble = self._put(before.minus(ips, declared))
        if before:
            log.info("no longer drained: %s", _named(ips, not ips), extra=carrying(Kind.UNDRAINED, _fields(ips)))
        return trouble

    async def watch(self) -> None:
        """Say so when a drain has ended by itself (it has, for those who ask, to the moment); until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = self._board.wall()
            end = self._board.drains.next_end()
            if end is not None and end <= now:
                await asyncio.to_thread(self._expire, now)
                continue
            with contextlib.suppress(TimeoutError):
                wait = None if end is None else min(end - now, _LONGEST_SLEEP)
                await asyncio.wait_for(self._changed.wait(), wait)

    def _expire(self, now: float) -> None:
        with self._lock:
            before = self._board.drains
            after = before.current(now)
            if after == before:
                return
            self._put(after)
        ips = sorted(before.vips.keys() - after.vips.keys(), key=_order)
        host = before.host and not after.host
        text = f"no longer drained, its time is over: {_named(ips, host)}"
        log.info("%s", text, extra=carrying(Kind.UNDRAINED, _fields(ips)))

    def _put(self, drains: Drains) -> str:
        self._board.drains = drains
        if self._loop:
            with contextlib.suppress(RuntimeError):  # it is ending
                self._loop.call_soon_threadsafe(self._changed.set)
                self._loop.call_soon_threadsafe(self.changed.set)
        try:
            write_whole(self._path, text_of(drains))
        except OSError as error:
            why = f"{self._path}: {error.strerror}"
            log.warning("this will not outlive the agent, because it cannot be kept: %s", why, extra=_WARNED)
            return why
        return ""


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
