"""
What the journal is told beside the text: which kind of message, about which VIP or tunnel. Pure.

``journalctl VIP=192.0.2.10`` shows the life of one VIP, ``journalctl MESSAGE_ID=...`` all messages of one kind.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeAlias

from dsr_agent.service.subjects import SubjectSort, sort_of, tunnel_of
from dsr_agent.state.actions import Action
from dsr_agent.state.model import AddressKey, Desired, Key

Fields: TypeAlias = tuple[tuple[str, str], ...]

# The journal takes 1024 fields with one message, and a few of them are its own.
_MOST_FIELDS = 900


class Kind(StrEnum):
    """The kinds of messages, and the id that each carries for ever."""

    STARTED = "f4c61a25e8e845d9b98ce99fb3e09436"
    RELOADED = "8b3f95c4dd364289b14640ee03c80e38"
    REFUSED = "c1d45ce9c855457595fd3cc3711bf56a"
    ADOPTED = "ac482fc11769431dbd50d736735ddd09"
    REPAIRED = "f9b31da419e84eacb38e124a6652234b"
    TROUBLE = "b68e0e25f96348078b0be9f07cdc2737"
    IN_SYNC = "e635a0ed693043edbce28531e072f959"
    FIGHT = "2475f4f794564737be2df55d1224a337"
    PEACE = "71881338b6044ca59d9710c7527510a7"
    EVENTS_LOST = "2b55c8772cf64b1c8981713ea3d9e68b"
    WARNED = "0c290ffbf0de4ec9bbd68e55df6594d8"
    UNREACHED = "a9d0c6e1f3b24d7c8e5f60718293a4b5"
    REACHED = "5c1e7d2a9b804f36a4d8e7f01b6c3925"
    STOPPED = "f2671bb5185a4da9bcf3697a8f1ee293"
    HTTP = "c920448c6f80483a96cfc43cb70ee457"
    SERVICE_DOWN = "286f2257858640939d790ed68b789fd6"
    SERVICE_UP = "c517a137243444499a9919595a0182ad"
    CHECK_FAILED = "5a3c9f0b7d4e4b1e9c6f2a8d1e7b0c34"
    CHECK_PASSED = "b81f6d2e09c74a5f8e3b7c1d4a92f650"
    DRAINED = "02d0ae9eab604c61a61db805e13212ab"
    UNDRAINED = "6d320e1f5f15454683c93a858c7a4fe8"
    HELD = "ca6a17e7b5cc46d08a33d98ef8985d12"
    RELEASED = "675d873902da48e0b83cc2d32f1ba4bf"


def about(key: Key, desired: Desired) -> Fields:
    """The fields that say what a message is about."""
    if isinstance(key, AddressKey) and sort_of(key, desired) is SubjectSort.VIP:
        return (("VIP", str(key.ip)),)
    tunnel = tunnel_of(key, desired)
    return (("TUNNEL", tunnel),) if tunnel else ()


def of_actions(actions: Iterable[Action], desired: Desired) -> Fields:
    """The fields of a message about *actions*; of very many, the first."""
    found: dict[tuple[str, str], None] = {}
    for action in actions:
        found[("ACTION", type(action).__name__)] = None
        found.update(dict.fromkeys(about(action.key, desired)))
        if len(found) >= _MOST_FIELDS:
            break
    return tuple(found)


def carrying(kind: Kind, fields: Fields = ()) -> Mapping[str, object]:
    """What to hand to `logging` as *extra*."""
    return {"kind": kind, "fields": fields}


def fields_of(record: logging.LogRecord) -> Fields:
    """What *record* carries, its kind as a message id first."""
    kind: Kind | None = getattr(record, "kind", None)
    fields: Fields = getattr(record, "fields", ())
    return ((("MESSAGE_ID", str(kind)),) if kind else ()) + fields


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def priority(level: int) -> int:
    """The syslog priority of a level of `logging`."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


class Prefixed(logging.Formatter):
    """Lines for a journal that reads standard error: each with ``<N>`` in front, its priority."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        front = f"<{priority(record.levelno)}>"
        return "\n".join(front + line for line in super().format(record).splitlines())


def reads_stderr(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether the journal is what standard error goes to (children of a service may write elsewhere)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))
