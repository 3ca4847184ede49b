"""
systemd's ear: readiness, status, watchdog, and the journal with its fields.

The only importer of systemd-python. Without it, and without systemd, everything here still works: notifications go
out as plain datagrams, or nowhere; log lines go to standard error, with priorities where the journal reads them.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from dsr_agent.service import journal

Send = Callable[[str], None]


class Notifier:
    """
    Tells the service manager how it goes; a service manager that is not there is told nothing.

    *beat* is how often the loop has to turn for the watchdog's sake, in seconds, if there is one.
    """

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = _sender(environ)
        self._clock = clock
        self._patience = _watchdog(environ)
        self._petted = clock()
        self._status = ""

    @property
    def beat(self) -> float | None:
        """A quarter of the watchdog's patience: the loop may be late and is still in time."""
        return self._patience / 4 if self._patience else None

    def turned(self) -> None:
        """The loop has turned. Call this from the loop itself and from nowhere else: a stuck loop must be killed."""
        now = self._clock()
        if self._patience and now - self._petted >= self._patience / 4:
            self._petted = now
            self._send("WATCHDOG=1")

    def ready(self, status: str) -> None:
        """The first pass, or that of a reload, has ended; *status* says how."""
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One sentence for ``systemctl status``; sent if it is a new one."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """The file is being read again; `ready` ends this."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """No more passes."""
        self._send("STOPPING=1\nSTATUS=stopped; tunnels and VIPs stay as they are")


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """The watchdog's patience in seconds, if there is one and it is for this process."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        ours = int(environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 and ours else None


def _sender(environ: Mapping[str, str]) -> Send:
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return lambda state: None
    try:
        from systemd import daemon  # noqa: PLC0415  not everywhere
    except ImportError:
        return lambda state: _datagram(address, state)
    if environ is os.environ:  # the library knows no other
        return lambda state: _quietly(daemon.notify, state)
    return lambda state: _datagram(address, state)


def _quietly(notify: Callable[[str], Any], state: str) -> None:
    try:
        notify(state)
    except OSError as error:  # a manager that does not listen is no reason to stop
        logging.getLogger(__name__).debug("not notified: %s", error)


def _datagram(address: str, state: str) -> None:
    """What sd_notify(3) sends. An address that starts with @ is in the abstract namespace."""
    place = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sending:
        _quietly(lambda text: sending.sendto(text.encode(), place), state)


# --- the journal ------------------------------------------------------------------------------------------------------


def log_handler(environ: Mapping[str, str]) -> logging.Handler:
    """Where log lines go: the journal with fields, the journal by standard error, or a terminal."""
    if not journal.reads_stderr(environ):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        return handler
    try:
        return JournalHandler()
    except ImportError:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(journal.Prefixed("%(message)s"))
        return handler


class JournalHandler(logging.Handler):
    """Log lines to the journal, with what `journal.carrying` gave them as fields of their own."""

    def __init__(self) -> None:
        super().__init__()
        from systemd.journal import sendv  # noqa: PLC0415  not everywhere

        self._sendv: Callable[..., None] = sendv
        self.setFormatter(logging.Formatter("%(message)s"))  # level and name are fields; basicConfig has other ideas

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            fields = (
                ("MESSAGE", self.format(record)),
                ("PRIORITY", str(journal.priority(record.levelno))),
                ("SYSLOG_IDENTIFIER", "dsr-agent"),
                ("LOGGER", record.name),
                *journal.fields_of(record),
            )
            self._sendv(*(f"{name}={value}" for name, value in fields))
        except Exception:  # as every handler of logging does
            self.handleError(record)
