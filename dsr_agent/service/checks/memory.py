"""
What had fallen is kept in a small file, so that a restart of the agent does not call it ready until it answers.

Only that: what answered is asked again, and nothing is against it before it has fallen.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from dsr_agent.service.journal import Kind, carrying
from dsr_agent.service.span_keeper import DEFAULT_DIRECTORY, write_whole
from dsr_agent.state.model import Ip
from dsr_agent.truth.checks import Answer, ByVip, Checked, FailureReason
from dsr_agent.truth.reach import Reach, Reached

log = logging.getLogger("dsr_agent")

FILE = "checks.json"
_LARGEST = 1 << 24


def place(environ: Mapping[str, str]) -> Path:
    """The file, beside that of the drains."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(directory or DEFAULT_DIRECTORY, FILE)


def text_of(checks: ByVip) -> str:
    """What is kept of *checks*."""
    rows = [
        {"vip": str(ip), "check": name, "reason": of.trouble.reason, "text": of.trouble.text, "hint": of.trouble.hint}
        for ip, by in checks.items()
        for name, of in by.items()
        if of.reach.state is Reached.FALLEN
    ]
    return json.dumps({"fallen": rows})


def read(text: str) -> ByVip:
    """What *text* holds. Raises `ValueError` if it is none of ours."""
    found: dict[Ip, Mapping[str, Checked]] = {}
    try:
        for row in json.loads(text)["fallen"]:
            answer = Answer(FailureReason(row["reason"]), str(row["text"]), str(row["hint"]))
            ip = ip_address(row["vip"])
            fallen = Checked(Reach(Reached.FALLEN, answer), 1, answer)
            found[ip] = {**found.get(ip, {}), str(row["check"]): fallen}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it has no {error}") from None
    return found


class Memory:
    """The file at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = ""
        self._trouble = ""

    def load(self) -> ByVip:
        """What had fallen; nothing, and a line in the log, where that cannot be read."""
        try:
            with self._path.open(encoding="utf-8") as file:
                self._kept = file.read(_LARGEST)
            return read(self._kept)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            log.warning("%s cannot be read: %s", self._path, why, extra=carrying(Kind.WARNED))
            return {}

    def keep(self, text: str) -> None:
        """Write *text* (see `text_of`), if it is another one."""
        if text == self._kept or (not self._kept and text == text_of({})):
            return
        trouble = ""
        try:
            write_whole(self._path, text)
            self._kept = text
        except OSError as error:
            trouble = f"what had fallen will be forgotten at a restart: {self._path}: {os.strerror(error.errno or 0)}"
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble, extra=carrying(Kind.WARNED))
        self._trouble = trouble
