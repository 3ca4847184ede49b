"""
One log line for each change of state, in words an operator understands. A quiet hour is a quiet journal.

Pure: `Narrator.tell` is given one `Report` after the other and returns what is worth saying about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from dsr_agent.service.journal import Fields, Kind, about, of_actions
from dsr_agent.service.subjects import looked_at
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteAddress,
    DeleteLink,
    LoadModule,
    MarkLink,
    MoveLink,
    RenameLink,
    ReplaceAddress,
    TakeDown,
    WriteSysctl,
)
from dsr_agent.state.guard_actions import HoldGuard, RemoveGuard, WriteGuard
from dsr_agent.state.model import GUARD, Desired, Key
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.report import PassCause, Report, Result
from dsr_agent.state.why import Why

# More of one kind than this in one pass is told as a number.
_ONE_BY_ONE = 5
# The journal's fields name more than the text does, and still not everything.
_MOST = 900


class Line(NamedTuple):
    """A log line: its level (of `logging`), its text, which kind it is, and what else a journal is told."""

    level: int
    text: str
    kind: Kind
    fields: Fields = ()


class Narrator:
    """Remembers what has been said, so that nothing is said twice."""

    def __init__(self, desired: Desired) -> None:
        self._desired = desired
        self._troubles: dict[Key, str] = {}
        self._fights: frozenset[Key] = frozenset()
        self._warnings: dict[Key, str] = {}

    def reload(self, desired: Desired) -> None:
        """Go on with another file."""
        self._desired = desired

    def tell(self, report: Report) -> list[Line]:
        """What is new in *report*."""
        lines = list(self._done(report))
        if report.lost:
            text = "announcements of the kernel were lost; everything was read back"
            lines.insert(0, Line(logging.WARNING, text, Kind.EVENTS_LOST))
        lines += self._troubled(report)
        lines += self._warned(report)
        lines += self._fought(report)
        return lines

    def _done(self, report: Report) -> Iterator[Line]:
        done = [outcome.action for outcome in report.outcomes if outcome.result is Result.DONE]
        if report.cause in (PassCause.START, PassCause.RELOAD):
            count = sum(action.why is not Why.KEPT for action in done)  # taking hold of the guard changes nothing
            steps = f"{count} step{'s' * (count != 1)}" if count else "nothing to do"
            state = "in sync" if report.in_sync else "not in sync"
            starting = report.cause is PassCause.START
            what, kind = ("started", Kind.STARTED) if starting else ("read the file again", Kind.RELOADED)
            text = f"{what}: {self._declared()}; {steps}, {state} after {_time(report.seconds)}"
            yield Line(logging.INFO, text, kind, of_actions(done, self._desired))
            for adopted in [action for action in done if action.why is Why.ADOPTED][:_ONE_BY_ONE]:
                text = f"{self._named(adopted.key)}: {adopted.why}"
                yield Line(logging.INFO, text, Kind.ADOPTED, of_actions([adopted], self._desired))
            return
        level = logging.WARNING if report.cause is PassCause.DRIFT else logging.INFO
        # What is fought over has been told; each repair of it is not news.
        visible = [action for action in done if not action.why.is_part and action.key not in self._fights]
        for (_, why), run in groupby(visible, key=lambda action: (type(action), action.why)):
            actions = list(run)
            if len(actions) > _ONE_BY_ONE:
                noun = "VIPs" if actions[0].key in self._desired.vips else "things"
                told = f"{why}; {_verb(actions[0])} in {_time(report.seconds)}"
                fields = of_actions(actions, self._desired)
                yield Line(level, f"{len(actions)} {noun}, each: {told}", Kind.REPAIRED, fields)
                continue
            for action in actions:
                by = f" (undone by {report.by[action.key]})" if action.key in report.by else ""
                told = f"{action.why}; {_verb(action)} in {_time(report.seconds)}{by}"
                fields = of_actions([action], self._desired)
                yield Line(level, f"{self._named(action.key)}: {told}", Kind.REPAIRED, fields)

    def _troubled(self, report: Report) -> Iterator[Line]:
        """Problems that are new, and the news that there are none any more."""
        now: dict[Key, str] = {}
        for problem in report.problems:  # the first is the cause; what was skipped because of it comes after
            now.setdefault(problem.key, str(problem.error))
        fresh = [(key, text) for key, text in now.items() if self._troubles.get(key) != text]
        for key, text in fresh[:_ONE_BY_ONE]:
            yield Line(logging.ERROR, f"{self._named(key)}: {text}", Kind.TROUBLE, self._about(key))
        if len(fresh) > _ONE_BY_ONE:
            more = tuple(dict.fromkeys(field for key, _ in fresh[_ONE_BY_ONE:][:_MOST] for field in self._about(key)))
            yield Line(logging.ERROR, f"and {len(fresh) - _ONE_BY_ONE} more; see dsr-agent status", Kind.TROUBLE, more)
        before = self._troubles
        self._troubles = {key: text for key, text in before.items() if not looked_at(key, report.scope)} | now
        if before and not self._troubles:
            yield Line(logging.INFO, "in sync again", Kind.IN_SYNC)

    def _warned(self, report: Report) -> Iterator[Line]:
        """What an operator should know although all is as the file says, once."""
        if not report.scope.host:
            return
        before, self._warnings = self._warnings, {item.key: str(item.error) for item in report.remaining.warnings}
        for key, text in self._warnings.items():
            if before.get(key) != text:
                yield Line(logging.WARNING, f"{self._named(key)}: {text}", Kind.WARNED, self._about(key))

    def _fought(self, report: Report) -> Iterator[Line]:
        for key in sorted(report.fights.keys() - self._fights, key=str):
            by = f" (last by {report.by[key]})" if key in report.by else ""
            times = report.fights[key]
            yield Line(
                logging.ERROR,
                f"{self._named(key)}: somebody keeps undoing it, {times} times within a minute{by}; "
                + ("put back each time all the same" if key == GUARD else "repairing it less often from now on"),
                Kind.FIGHT,
                self._about(key),
            )
        for key in sorted(self._fights - report.fights.keys(), key=str):
            yield Line(logging.INFO, f"{self._named(key)}: left in peace again", Kind.PEACE, self._about(key))
        self._fights = frozenset(report.fights)

    def _about(self, key: Key) -> Fields:
        return about(key, self._desired)

    # --- words -----------------------------------------------------------------------------------------------------

    def _declared(self) -> str:
        tunnels, vips = len(self._desired.tunnels), len(self._desired.vips)
        return f"{tunnels} tunnel{'s' * (tunnels != 1)}, {vips} VIP{'s' * (vips != 1)}"

    def _named(self, key: Key) -> str:
        if key in self._desired.vips:
            return f"VIP {key}"
        if str(key) in self._desired.tunnels:
            return f"tunnel {key}"
        return str(key)


_VERBS: dict[type, str] = {
    AddAddress: "put back",
    ReplaceAddress: "marked as ours",
    DeleteAddress: "removed",
    AddLink: "made again",
    MarkLink: "marked as ours",
    RenameLink: "renamed",
    BringUp: "brought up",
    DeleteLink: "removed",
    TakeDown: "taken down",
    AddPort: "opened again",
    DeletePort: "closed",
    WriteGuard: "put back",
    HoldGuard: "held by this process again",
    RemoveGuard: "removed",
    LoadModule: "loaded",
}


def _verb(action: Action) -> str:
    if isinstance(action, WriteSysctl):
        return f"set to {action.sysctl.value}"
    if isinstance(action, MoveLink):
        return f"put into VRF {action.vrf} again" if action.vrf else "taken out of what it belonged to"
    if isinstance(action, ChangeLink):
        return f"changed in place to {action.link.outer}"
    return _VERBS[type(action)]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
