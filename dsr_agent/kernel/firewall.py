"""
The guard's table in the kernel: reading it back, changing it in one transaction, owning it, and hearing of changes.

Rules are decided elsewhere (`dsr_agent.guard`); here they are texts. A copy of the table is kept until somebody else
changes it: reading 10,000 elements takes a tenth of a second, and the kernel says when it has to be done again.

Sources: ``libnftables-json(5)``, ``include/uapi/linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any

from dsr_agent.kernel.libnftables import UNREADABLE, MissingLibraryError, Nftables
from dsr_agent.kernel.monitor import ALL, Monitor
from dsr_agent.kernel.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Message,
    attributes,
    messages,
    refusal,
)
from dsr_agent.state.errors import Bug, DsrError, NotPermitted, Transient, Unsupported
from dsr_agent.state.guard_actions import HoldGuard, RemoveGuard, WriteGuard
from dsr_agent.state.table import FAMILY, NAME, Chain, FilterSet, ObservedGuard, SetShape, Table, canonical

_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_SUBSYSTEM_NFTABLES, _NEWGEN, _GETGEN = 10, 15, 16
_NFPROTO_INET = 1
_NFTA_TABLE_NAME, _NFTA_GEN_PROC_PID, _NFTA_GEN_PROC_NAME = 1, 2, 3
_RECEIVE_BUFFER = 4 << 20

_INSTALL = "install nftables (the package libnftables1), or write [guard] required = false to go on without"

# The kernel takes the flags for a table that is being made or that its owner has left, and for no other one.
_ITSELF = {"family": FAMILY, "name": NAME}
_MAKE = canonical({"add": {"table": _ITSELF}})
_MAKE_HELD = canonical({"add": {"table": _ITSELF | {"flags": ["owner", "persist"]}}})
_UNMAKE = canonical({"delete": {"table": _ITSELF}})

_UNSEEN = NotPermitted("the guard cannot be seen or changed", "run with CAP_NET_ADMIN")

GuardAction = WriteGuard | HoldGuard | RemoveGuard


class Firewall:
    """
    See above. *hold*: own the table as long as this process lives, where kernel and library can.

    Without *listen* every look reads afresh.
    """

    def __init__(self, hold: bool = False, *, listen: bool = True) -> None:
        self._nftables: Nftables | None = None
        self._hold = hold
        self._copy: ObservedGuard | None = None
        self._touched = self._theirs = False
        self._own, self._learned = os.getpid(), False
        with open("/proc/self/comm", encoding="utf-8") as own:
            self._name = own.read().strip()
        self.on_lost: Callable[[], None] = self.forget
        """Called when announcements were dropped and another socket listens."""
        self.others = 0
        """How often rules that are not ours have changed."""
        self._monitor: Monitor | None = None
        if not listen:
            return
        with contextlib.suppress(OSError):  # a kernel without netfilter, or a user without the right to listen
            self._monitor = Monitor(_RECEIVE_BUFFER, _NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,))

    def fileno(self) -> int:
        """For the event loop to watch; another one after announcements were lost, -1 where there is none."""
        return self._monitor.fileno() if self._monitor else -1

    def close(self) -> None:
        """Stop listening, and let go of the table: it stays, and anybody may change it."""
        if self._monitor:
            self._monitor.close()
        if self._nftables:
            self._nftables.close()
            self._nftables = None

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, afresh: bool = False) -> ObservedGuard:
        """The table; *afresh* from the kernel, whatever was announced."""
        if afresh or self._copy is None or self._monitor is None:
            self._copy = self._read()
        return self._copy

    def _read(self) -> ObservedGuard:
        try:
            if not _permitted():
                return ObservedGuard(can_hold=self._hold, unavailable=_UNSEEN)
            nftables = self._open()
        except OSError as error:
            return ObservedGuard(unavailable=_missing(error))
        objects, complaint = nftables.listing(f"list table {FAMILY} {NAME}")
        if "Operation not permitted" in complaint:
            return ObservedGuard(can_hold=self._hold, unavailable=_UNSEEN)
        if complaint == UNREADABLE:
            return ObservedGuard(Table(strangers=frozenset({("flag", "?")})))
        if not objects:
            return ObservedGuard(unavailable=self._why_not(nftables))
        self._hold &= _knows_persist(objects)
        held = any("owner" in _flags(found["table"]) for found in objects if "table" in found)
        return ObservedGuard(parse(objects), held, self._hold and not held)

    @staticmethod
    def _why_not(nftables: Nftables) -> DsrError | None:
        """Why no table could be made, if so."""
        complaint = nftables.rehearse([_MAKE])
        return _explain(complaint) if complaint else None

    def _open(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, action: GuardAction) -> DsrError | None:
        """Carry out *action*; what stands in the way, or None."""
        try:
            nftables = self._open()
        except OSError as error:
            return _missing(error)
        self._copy = None
        try:
            return self._carry_out(nftables, action)
        finally:
            self._learn_own_number()

    def _carry_out(self, nftables: Nftables, action: GuardAction) -> DsrError | None:
        if isinstance(action, HoldGuard):
            self._take_hold(nftables, action.commands)
            return None
        complaint = "not tried"
        if self._hold and isinstance(action, WriteGuard) and action.commands[:1] == (_MAKE,):
            complaint = nftables.transaction([_MAKE_HELD, *action.commands[1:]])
        if complaint:
            complaint = nftables.transaction(action.commands)
        if isinstance(action, RemoveGuard) and "No such file" in complaint:
            return None
        return _explain(complaint) if complaint else None

    def _take_hold(self, nftables: Nftables, commands: Sequence[str]) -> None:
        """
        Own the table: one that an owner has left, in place; any other by making it anew, in one transaction.

        Tried once: where kernel or library is too old, the table is as safe as announcements make it.
        """
        if nftables.transaction([_MAKE_HELD]):
            nftables.transaction([_UNMAKE, _MAKE_HELD, *commands[1:]])
        self._hold = self._read().held

    def _learn_own_number(self) -> None:
        """
        What is announced now is what was just written, and by which process, as the kernel numbers them.

        In a container that is another number than this process has for itself; when several of our name write at
        once, it is learnt another time. Nothing is missed by taking what was announced: after a write the table is
        read afresh anyway.
        """
        waiting = self._monitor.drain(ALL, self.on_lost) if self._monitor else ()
        culprits = [culprit for message in waiting if (culprit := self._end_of_transaction(message)[0])]
        namesakes = {number for number, name in culprits if name == self._name}
        if not self._learned and (len(namesakes) == 1 or self._own in namesakes):
            self._own, self._learned = self._own if self._own in namesakes else namesakes.pop(), True

    # --- announcements ---------------------------------------------------------------------------------------------

    def take_in(self, at_most: int) -> tuple[int, str] | None:
        """
        Take what was announced; number and name of the process that changed our table, if somebody else did.

        Every transaction ends with the announcement of a new generation, which names the process.
        """
        culprit = None
        if self._monitor:
            for message in self._monitor.drain(at_most, self.on_lost):
                culprit = self._take(message) or culprit
        return culprit

    def forget(self) -> None:
        """The copy may be out of date."""
        self._copy = None

    def _take(self, message: Message) -> tuple[int, str] | None:
        culprit, touched = self._end_of_transaction(message)
        if culprit is None or not touched or culprit[0] == self._own:
            return None
        self._copy = None
        return culprit

    def _end_of_transaction(self, message: Message) -> tuple[tuple[int, str] | None, bool]:
        """
        Who made the transaction that *message* ends, if it ends one, and whether our table was touched by it.

        What it says of tables goes before. Ours are not others' rules, whoever wrote them: of a table that is made for
        tracing, aside, the kernel names the thread.
        """
        if message.type >> 8 != _SUBSYSTEM_NFTABLES:
            return None, False
        if message.type & 0xFF != _NEWGEN:
            found = dict(attributes(message.body, 4))
            name = found.get(_NFTA_TABLE_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
            self._touched |= message.body[:1] == bytes([_NFPROTO_INET]) and name == NAME
            self._theirs |= not name.startswith(NAME)
            return None, False
        touched, self._touched = self._touched, False
        self.others += self._theirs
        self._theirs = False
        return _culprit(message), touched


def _culprit(message: Message) -> tuple[int, str]:
    """Which process the announcement of a new generation names."""
    found = dict(attributes(message.body, 4))
    name = found.get(_NFTA_GEN_PROC_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return int.from_bytes(found.get(_NFTA_GEN_PROC_PID, b""), "big"), name


def _permitted() -> bool:
    """
    Whether this process may speak to the packet filter at all.

    To be asked before the library is: 1.0.6 ends the whole process where it may not (measured).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as asking:
        asking.bind((0, 0))
        asking.send(HEADER.pack(20, _SUBSYSTEM_NFTABLES << 8 | _GETGEN, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + bytes(4))
        answers = messages(asking.recv(1 << 12))
        return not any(answer.type == NLMSG_ERROR and refusal(answer).errno == errno.EPERM for answer in answers)


# --- what the listing means -------------------------------------------------------------------------------------------


def parse(objects: Iterable[dict[str, Any]]) -> Table:
    """The table that *objects*, the listing of one table, describe."""
    sets: dict[str, FilterSet] = {}
    counters: set[str] = set()
    chains: dict[str, Chain] = {}
    rules: dict[str, list[str]] = {}
    strangers: set[tuple[str, str]] = set()
    for found in objects:
        ((kind, what),) = found.items()
        if kind == "set":
            sets[what["name"]] = _set(what)
        elif kind == "counter":
            counters.add(what["name"])
        elif kind == "chain":
            hook = (what["hook"], what["prio"], what["type"], what.get("policy", "accept")) if "hook" in what else ()
            chains[what["name"]] = Chain((), *hook)
        elif kind == "rule":
            rules.setdefault(what["chain"], []).append(canonical(_folded(what["expr"])))
        elif kind == "table":
            strangers |= {("flag", flag) for flag in _flags(what) - {"owner", "persist"}}
        elif kind != "metainfo":
            strangers.add((kind, what["name"]))
    whole = {name: Chain(tuple(rules.get(name, ())), *chain.place) for name, chain in chains.items()}
    return Table(sets, frozenset(counters), whole, frozenset(strangers))


def _knows_persist(listing: Iterable[dict[str, Any]]) -> bool:
    """
    Whether the library can have a table outlive its owner; 1.0.6 takes the flags without a word, and drops them.

    Source: the flag ``persist`` came with nftables 1.1.0.
    """
    said = next((found["metainfo"].get("version", "") for found in listing if "metainfo" in found), "")
    version = re.match(r"(\d+)\.(\d+)", said)
    return version is None or (int(version[1]), int(version[2])) >= (1, 1)


def _flags(table: dict[str, Any]) -> set[str]:
    """One flag is printed as a word, several as a list."""
    flags = table.get("flags", ())
    return {flags} if isinstance(flags, str) else set(flags)


def _set(what: dict[str, Any]) -> FilterSet:
    of = what["type"]
    shape = SetShape(
        (of,) if isinstance(of, str) else tuple(of),
        what.get("size", 0),
        "interval" in what.get("flags", ()),
        bool(what.get("stmt")),
    )
    return FilterSet(shape, frozenset(canonical(value_of(element)) for element in what.get("elem", ())))


def value_of(element: Any) -> Any:
    """An element without its counter."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _folded(value: Any, key: str = "") -> Any:
    """Flags as one number: nftables 1.0 prints them as a list, and 1.1 says that they are or-ed (measured)."""
    if isinstance(value, dict):
        return _folded(value["|"]) if value.keys() == {"|"} else {name: _folded(of, name) for name, of in value.items()}
    if not isinstance(value, list):
        return value
    if value and key != "set" and all(isinstance(item, int) for item in value):
        return reduce(or_, value)
    return [_folded(item) for item in value]


# --- what refusals mean -----------------------------------------------------------------------------------------------


def _missing(error: OSError) -> DsrError:
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return _explain(f"Netlink for netfilter is not supported ({error.strerror})")
    if isinstance(error, MissingLibraryError):
        return Unsupported("there is no guard, because nftables is not installed", _INSTALL)
    return Transient(f"there is no guard: {error}")


def _explain(complaint: str) -> DsrError:
    """The error whose move it is; *complaint* is the library's first words, its quotation of the command follows."""
    said = complaint.splitlines()[0].removeprefix("Error: ")
    if "not supported" in complaint:
        text = "there is no guard, because this kernel has no nftables for IPv4 and IPv6 together"
        return Unsupported(f"{text} ({said})", "load or build nf_tables, or write [guard] required = false")
    if "Operation not permitted" in complaint:
        return NotPermitted(
            f"the guard cannot be changed ({said})",
            "run with CAP_NET_ADMIN; if it has that, another process owns the table inet dsr_agent",
        )
    if any(word in complaint for word in ("No buffer space", "busy", "Cannot allocate", "Interrupted", "exists")):
        return Transient(f"the guard cannot be changed: {said}")
    return Bug(f"the guard cannot be changed: {complaint}")
