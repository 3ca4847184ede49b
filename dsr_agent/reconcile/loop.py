"""
The loop: observe, plan, apply, observe again, report; then wait until there is a reason for the next pass.

The only part of this room that awaits anything. It speaks to the kernel through `Kernel` and to time through `Clock`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from dsr_agent.kernel.port import Kernel
from dsr_agent.reconcile import cadence
from dsr_agent.reconcile.delta import only_routes, scope_of
from dsr_agent.reconcile.local import targets
from dsr_agent.reconcile.plan import plan
from dsr_agent.reconcile.resolve import missing_modules
from dsr_agent.state.actions import Action, LoadModule, Plan, Problem
from dsr_agent.state.errors import NotYet, Transient
from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import (
    EVERYTHING,
    GUARD,
    HOST,
    THIS_HOST,
    AddressKey,
    Changes,
    Desired,
    Ip,
    Key,
    Observed,
    Scope,
)
from dsr_agent.state.report import Outcome, PassCause, Report, Result
from dsr_agent.state.why import Why

# A step can bring to light the next one (a link adopted under its own name, say); more turns than this mean that
# somebody undoes us while we work, and that is for the next pass.
_TURNS = 3
# Finding out who undid something means reading other processes' tables: worth it for a few, not for 10,000 VIPs.
_BLAMED_AT_MOST = 3


class Clock(Protocol):
    """Steady time, in seconds."""

    def now(self) -> float:
        """The time now."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


@dataclass(frozen=True, slots=True)
class Rhythm:
    """
    How often to look without being told, in seconds: at what is not announced, and at everything.

    The loop turns at least every *beat* seconds, whether there is a reason to look or not.
    """

    poll: float = 5.0
    resync: float = 60.0
    beat: float = 10.0


@dataclass(frozen=True, slots=True)
class _Wake:
    scope: Scope
    cause: PassCause
    by: Mapping[Key, int]
    lost: bool = False


class Reconciler:
    """
    Keeps one host as the file says.

    *publish* gets every `Report`. *turned* is called whenever the loop comes round, by the loop itself: a loop that
    is stuck does not call it. `reload`, `hold` and `stop` may be called at any time from the same event loop.
    """

    def __init__(
        self,
        kernel: Kernel,
        desired: Desired,
        *,
        clock: Clock,
        publish: Callable[[Report], None],
        rhythm: Rhythm | None = None,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._kernel = kernel
        self._desired = desired
        self._clock = clock
        self._publish = publish
        self._rhythm = rhythm or Rhythm()
        self._turned = turned
        self._fights = cadence.Fights()
        self._retry = cadence.Retry()
        self._ours: frozenset[str] = frozenset()
        self._undone = Scope()
        self._troubled: frozenset[AddressKey] = frozenset()
        self._due: dict[str, float] = {}
        self._nudge = asyncio.Event()
        self._reload = False
        self._held: frozenset[Ip] = frozenset()
        self._taken_in_hand = Scope()
        self._stopping = False
        self._changes: asyncio.Task[Changes] | None = None

    def reload(self, desired: Desired, rhythm: Rhythm | None = None) -> None:
        """Go on with another file."""
        self._desired = desired.holding(self._held)
        self._rhythm = rhythm or self._rhythm
        self._reload = True
        self._nudge.set()

    def hold(self, ips: frozenset[Ip]) -> None:
        """Leave these VIPs as they are from the next pass on, and keep all others; that pass comes at once."""
        places = self._desired.key_of_ip
        changed = frozenset(places[ip] for ip in ips ^ self._held if ip in places)
        self._held = ips
        self._desired = self._desired.holding(ips)
        if changed:
            self._fights.settle(changed)
            self._taken_in_hand |= Scope(host=True, addresses=changed)
            self._nudge.set()

    def stop(self) -> None:
        """Finish the pass that is under way and return from `run`; the host stays as it is."""
        self._stopping = True
        self._nudge.set()

    async def run(self) -> None:
        """Passes until `stop`: one over everything at once, then whenever there is a reason."""
        wake: _Wake | None = _Wake(EVERYTHING, PassCause.START, {})
        self._taken_in_hand = Scope()
        try:
            while wake and not self._stopping:
                try:
                    await self.one_pass(wake.scope, wake.cause, wake.by, wake.lost)
                except OSError as error:
                    self._not_seen(wake, error)
                wake = await self._next()
        finally:
            if self._changes:
                self._changes.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._changes

    # --- one pass --------------------------------------------------------------------------------------------------

    async def one_pass(
        self, scope: Scope, cause: PassCause = PassCause.DRIFT, by: Mapping[Key, int] | None = None, lost: bool = False
    ) -> Report:
        """Look, decide, do, look again; publish and return what came of it."""
        started = self._clock.now()
        desired = self._desired  # a file that comes meanwhile is for the next pass
        # A fight about the guard is fought to the end: while it is held back, strangers get in.
        held = self._fights.held(started) - {GUARD}
        scope = self._with_troubled(scope)
        observed = await self._observe(desired, scope)
        first = todo = plan(desired, observed, scope)
        outcomes: list[Outcome] = []
        # The second look needs no dump of addresses: what was done was announced before it was acknowledged.
        again = replace(scope, everything=False)
        for _ in range(_TURNS):
            if not todo.actions:
                break
            done = await carry_out(self._kernel, todo.actions, held)
            outcomes += done
            observed = await self._observe(desired, again)
            todo = plan(desired, observed, scope)
            if any(_was_refused(outcome) for outcome in done):
                break  # trying again at once would meet the same refusal
        finished = self._clock.now()
        repaired = _repaired(outcomes)
        if cause is PassCause.RETRY:
            repaired &= self._fights.going_on(finished).keys()  # what was held has been undone before
        if cause in (PassCause.DRIFT, PassCause.RETRY):
            self._fights.repaired(repaired, finished)
        report = Report(
            scope=scope,
            cause=cause,
            plan=first,
            outcomes=tuple(outcomes),
            remaining=todo,
            seconds=finished - started,
            by=await self._blame(outcomes, by or {}),
            fights=self._fights.going_on(finished),
            lost=lost,
            desired=desired,
            observed=observed,
        )
        self._schedule(report, finished)
        self._note_troubled(report)
        self._publish(report)
        return report

    def _with_troubled(self, scope: Scope) -> Scope:
        """*scope*, so that it can say of VIPs what stands in their way: that is seen by looking at the host alone."""
        host = scope.host or not self._troubled.isdisjoint(scope.addresses)
        return replace(scope, host=host, addresses=scope.addresses | self._troubled) if host else scope

    def _note_troubled(self, report: Report) -> None:
        """Remember which VIPs something stands in the way of."""
        if report.scope.host or report.scope.everything:
            self._troubled = frozenset(
                problem.key
                for problem in report.remaining.problems
                if isinstance(problem.key, AddressKey) and problem.key in report.desired.addresses
            )

    async def _observe(self, desired: Desired, scope: Scope) -> Observed:
        observed = await look(self._kernel, desired, scope)
        if scope.host:
            self._ours = frozenset(name for name, link in observed.links.items() if owns_link(link))
        return observed

    async def _blame(self, outcomes: Iterable[Outcome], by: Mapping[Key, int]) -> dict[Key, str]:
        ports = {outcome.action.key: by[outcome.action.key] for outcome in outcomes if outcome.action.key in by}
        said = {key: await self._kernel.who(port) for key, port in list(ports.items())[:_BLAMED_AT_MOST]}
        return {key: who for key, who in said.items() if who}

    def _not_seen(self, wake: _Wake, error: OSError) -> None:
        """The kernel refused even to be looked at (no memory, say): say so, and try again."""
        now = self._clock.now()
        problem = Problem(THIS_HOST, Transient(f"the kernel cannot be read: {error.strerror or error}"))
        report = Report(wake.scope, wake.cause, remaining=Plan((), (problem,)), desired=self._desired)
        self._retry = self._retry.after(undone=True)
        self._undone |= wake.scope
        self._due.setdefault("resync", now + self._rhythm.resync)
        self._due["retry"] = now + self._retry.delay
        self._publish(report)

    # --- waiting ---------------------------------------------------------------------------------------------------

    def _schedule(self, report: Report, now: float) -> None:
        """Set the times of the next passes that nobody has to ask for."""
        if report.scope.everything:
            self._due["resync"] = now + self._rhythm.resync
        if report.scope.host:
            self._due["poll"] = now + self._rhythm.poll
        undone = bool(report.remaining.actions)
        elsewhere = self._undone - report.scope
        self._undone = elsewhere | (report.scope if undone else Scope())
        if undone:
            if report.cause is PassCause.RETRY or not self._retry.attempts:  # drift meanwhile makes nobody wait longer
                self._retry = self._retry.after(undone=True)
            due = now + self._retry.delay
            self._due["retry"] = min(self._due.get("retry", due), due) if elsewhere else due
        elif not self._undone:
            self._retry = cadence.Retry()
            self._due.pop("retry", None)
        if (release := self._fights.next_release(now)) is not None:
            self._due["retry"] = min(self._due.get("retry", release), release)

    async def _next(self) -> _Wake | None:
        """Wait for the next reason to look, and say where; None when stopping."""
        while not self._stopping:
            self._turned()
            if self._reload:
                self._reload = False
                self._taken_in_hand = Scope()
                return _Wake(EVERYTHING, PassCause.RELOAD, {})
            if self._taken_in_hand:
                scope, self._taken_in_hand = self._taken_in_hand, Scope()
                return _Wake(scope, PassCause.HOLD, {})
            changes = await self._wait(min(*self._due.values(), self._clock.now() + self._rhythm.beat))
            if changes:
                wake = self._concern(await self._collect(changes))
                if wake and not self._reload:
                    return wake
            if self._reload or self._taken_in_hand:
                continue
            now = self._clock.now()
            for name, scope, cause in (
                ("resync", EVERYTHING, PassCause.DRIFT),
                ("retry", self._undone or HOST, PassCause.RETRY),
                ("routes", HOST, PassCause.DRIFT),
                ("poll", HOST, PassCause.DRIFT),
            ):
                if self._due.get(name, now + 1) <= now:
                    del self._due[name]
                    return _Wake(scope, cause, {})
        return None

    def _concern(self, changes: Changes) -> _Wake | None:
        """What *changes* mean for us, if anything."""
        if only_routes(changes):
            self._due.setdefault("routes", self._clock.now() + cadence.ROUTES_DELAY)
            return None
        scope = scope_of(changes, self._desired, self._ours)
        return _Wake(scope, PassCause.DRIFT, changes.by, changes.lost) if scope else None

    async def _collect(self, changes: Changes) -> Changes:
        """Go on collecting until a quiet moment, or until it has taken long enough."""
        latest = self._clock.now() + cadence.LONGEST_COLLECTING
        while self._clock.now() < latest and not self._stopping:
            more = await self._wait(self._clock.now() + cadence.QUIET)
            if more is None:
                break
            changes = Changes(changes.keys | more.keys, {**changes.by, **more.by}, changes.lost or more.lost)
        return changes

    async def _wait(self, until: float) -> Changes | None:
        """The next announcements, or None at *until* or when nudged."""
        if self._changes is None:
            self._changes = asyncio.create_task(self._kernel.changes())
        timer = asyncio.create_task(self._clock.sleep(max(until - self._clock.now(), 0.0)))
        nudge = asyncio.create_task(self._nudge.wait())
        try:
            await asyncio.wait({self._changes, timer, nudge}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (timer, nudge):
                task.cancel()
        self._nudge.clear()
        if self._changes.done():
            changes, self._changes = self._changes.result(), None
            return changes
        return None


async def carry_out(kernel: Kernel, actions: Sequence[Action], held: Collection[Key] = ()) -> list[Outcome]:
    """
    Do *actions* in order, leaving out those whose key is *held* and those that need something that was not done.

    Actions that need nothing of each other go to the kernel together.
    """
    outcomes: list[Outcome] = []
    undone: dict[Key, str] = {}
    for _, run in groupby(actions, key=type):
        ready: list[Action] = []
        for action in run:
            if action.key in held:
                why = NotYet("held back, because somebody keeps undoing it")
                outcomes.append(Outcome(action, Result.HELD, why))
            elif reason := next((undone[key] for key in action.needs if key in undone), None):
                outcomes.append(Outcome(action, Result.SKIPPED, NotYet(reason)))
            else:
                ready.append(action)
        outcomes += await kernel.apply(ready) if ready else ()
        for outcome in outcomes:
            if _was_refused(outcome):
                undone.setdefault(outcome.action.key, f"it waits for {outcome.action.key}")
    return outcomes


def _was_refused(outcome: Outcome) -> bool:
    """Whether a step was not done that others may need; loading a module is a courtesy."""
    return outcome.result is not Result.DONE and not isinstance(outcome.action, LoadModule)


def _repaired(outcomes: Iterable[Outcome]) -> set[Key]:
    return {
        outcome.action.key
        for outcome in outcomes
        if outcome.result is Result.DONE and not isinstance(outcome.action, LoadModule)
        if outcome.action.why is not Why.FOLLOWS
    }


async def look(kernel: Kernel, desired: Desired, scope: Scope) -> Observed:
    """Read back what *scope* asks for, and why modules that *desired* needs cannot be had."""
    observed = await kernel.observe(scope, targets(desired) if scope.host else ())
    missing = missing_modules(desired, observed) if scope.host else ()
    return replace(observed, obstacles=await kernel.obstacles(missing)) if missing else observed


async def apply_once(kernel: Kernel, desired: Desired, clock: Clock) -> Report:
    """One pass over everything, for ``dsr-agent apply``."""
    return await Reconciler(kernel, desired, clock=clock, publish=lambda report: None).one_pass(
        EVERYTHING, PassCause.START
    )


async def plan_now(kernel: Kernel, desired: Desired) -> tuple[Plan, Observed]:
    """What ``dsr-agent plan`` prints: one look at everything, and nothing done."""
    observed = await look(kernel, desired, EVERYTHING)
    return plan(desired, observed, EVERYTHING), observed
