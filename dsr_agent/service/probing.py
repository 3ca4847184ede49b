"""
The self-test beside the loop: every VIP by every tunnel, again and again, within a budget of packets.

Costs the loop nothing but its turns: a packet is sent when it is due, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dsr_agent.config.settings import ProbeSettings
from dsr_agent.reconcile.loop import Clock
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.service.board import Board
from dsr_agent.service.journal import Kind, carrying
from dsr_agent.service.overview import Overview
from dsr_agent.service.selftest import every_way, taken
from dsr_agent.state.count import Count
from dsr_agent.state.errors import DsrError
from dsr_agent.state.model import Ip
from dsr_agent.state.probe import Seen, Shot, Sight
from dsr_agent.truth.findings import said
from dsr_agent.truth.probe import Pair, Ways, clients, inner_size, pairs, shot
from dsr_agent.truth.reach import Reach, Reached
from dsr_agent.truth.rotation import Rotation

log = logging.getLogger("dsr_agent")

# With 10,000 VIPs behind one fault, nobody reads 10,000 lines.
_TOLD_AT_MOST = 10


class Fires(Protocol):
    """Who sends the packets: `kernel.probe.Prober`."""

    async def fire(self, shot: Shot, patience: float, *, evidence: bool = False) -> Sight:
        """Send once, and say what became of it."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class _Scene:
    """What can be tried on this host as it was last looked at."""

    overview: Overview
    ways: Ways = field(default_factory=dict)
    clients: Mapping[int, Ip] = field(default_factory=dict)


class SelfTest:
    """Keeps `Board.probes` true. *make* opens what sends the packets to a port, or says why it may not."""

    def __init__(self, board: Board, settings: ProbeSettings, clock: Clock, make: Callable[[int], Fires]) -> None:
        self._board = board
        self._settings = settings
        self._clock = clock
        self._make = make
        self._scene = _Scene(Overview())
        self._nudge = asyncio.Event()
        self._fresh = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._told = 0

    def change(self, settings: ProbeSettings) -> None:
        """Go on as another file says."""
        self._settings = settings
        self._fresh = True
        self._nudge.set()

    def looked(self) -> None:
        """The board shows another overview."""
        self._nudge.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._fresh = False
            why = "the file wants none"
            if self._settings.enabled:
                try:
                    prober = self._make(self._settings.port)
                except DsrError as error:
                    why = str(error)
                    log.warning("no self-test: %s", why, extra=carrying(Kind.WARNED))
                else:
                    await self._turns(prober)
                    continue
            self._board.probes.stopped(why)
            while not self._fresh:
                self._nudge.clear()
                await self._nudge.wait()

    async def _turns(self, prober: Fires) -> None:
        """Try one pair after the other, until there is another file."""
        settings = self._settings
        rotation = Rotation(settings.interval, settings.timeout)
        self._scene = _Scene(Overview())
        self._board.probes.started()
        try:
            while not self._fresh:
                self._refresh(rotation)
                now = self._clock.now()
                if pair := rotation.take(now):
                    task = asyncio.create_task(self._one(prober, rotation, pair, now))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                    await self._clock.sleep(1 / settings.rate)
                else:
                    await self._wait(rotation.next_due())
        finally:
            for task in tuple(self._under_way):
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            prober.close()

    async def _wait(self, until: float | None) -> None:
        """Until a pair is due, or something is new."""
        waiting: set[asyncio.Task[Any]] = {asyncio.create_task(self._nudge.wait())}
        if until is not None:
            waiting.add(asyncio.create_task(self._clock.sleep(max(until - self._clock.now(), 0.0))))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        self._nudge.clear()

    def _refresh(self, rotation: Rotation) -> None:
        """Take over what another overview shows, if it is another file, or the host is another than before."""
        overview, before = self._board.overview, self._scene.overview
        if overview is before:
            return
        now, then = overview.observed, before.observed
        if overview.desired is before.desired and (now.links, now.addresses) == (then.links, then.addresses):
            return
        desired, observed = overview.desired, overview.observed
        somebodys = taken(desired, observed)
        there = every_way(resolve(desired, observed), desired, somebodys)
        if there != self._scene.ways or desired is not before.desired:
            rotation.keep(pairs(desired, there), self._clock.now())
            probes = self._board.probes
            probes.pairs = len(rotation)
            for pair in probes.reaches.keys() - rotation.pairs:
                probes.show(pair, None)
            probes.keep(desired.tunnels)
        self._scene = _Scene(overview, there, clients(somebodys))

    # --- one packet ------------------------------------------------------------------------------------------------

    async def _one(self, prober: Fires, rotation: Rotation, pair: Pair, now: float) -> None:
        before: Reach[Sight] = self._board.probes.reaches.get(pair, Reach())
        try:
            sight = await self._fire(prober, pair, before)
        except Exception:  # a self-test that stumbles says nothing about the VIP, and the next one may not
            log.exception("the self-test of %s failed", pair, extra=carrying(Kind.WARNED))
            sight = Sight(Seen.UNKNOWN)
        self._hear(sight)
        after = before.after(sight, self._settings.fall, self._settings.rise)
        rotation.back(pair, now, doubtful=after.doubtful)
        self._nudge.set()
        if pair in rotation.pairs:
            self._record(pair, before, after)

    async def _fire(self, prober: Fires, pair: Pair, before: Reach[Sight]) -> Sight:
        way, client = self._scene.ways.get(pair.tunnel), self._scene.clients.get(pair.vip.version)
        if way is None or client is None:
            return Sight(Seen.UNKNOWN)
        ledger = self._board.probes
        # Where the guard is, it counts them; here the kernel has counted before anybody is told.
        own = Count() if self._board.overview.observed.guard.table else Count(1, inner_size(pair.vip.version))
        ledger.take(pair.tunnel, own)
        sight = Sight(Seen.UNKNOWN)
        try:
            in_doubt = before.state is not Reached.UP or before.doubtful
            sight = await prober.fire(shot(pair, way, client), self._settings.timeout, evidence=in_doubt)
        finally:
            if sight.what is not Seen.ARRIVED:
                ledger.give_back(pair.tunnel, own)
        ledger.sent += sight.sent
        ledger.lost += sight.sent and sight.what is not Seen.ARRIVED
        return sight

    def _hear(self, sight: Sight) -> None:
        """What could not be sent says nothing about the VIP; but somebody should know."""
        probes = self._board.probes
        if sight.what is Seen.ARRIVED:
            probes.silent = ""
        elif sight.silent and sight.why:
            if not probes.silent:
                log.warning("the self-test says nothing: %s", sight.why, extra=carrying(Kind.WARNED))
            probes.silent = sight.why

    def _record(self, pair: Pair, before: Reach[Sight], after: Reach[Sight]) -> None:
        self._board.probes.show(pair, after)
        if after.state is not before.state:
            self._tell(pair, before, after)

    def _tell(self, pair: Pair, before: Reach[Sight], after: Reach[Sight]) -> None:
        fields = (("VIP", str(pair.vip)), ("TUNNEL", pair.tunnel))
        fallen = len(self._board.probes.fallen)
        if after.state is Reached.FALLEN and after.last:
            self._told += 1
            if self._told <= _TOLD_AT_MOST:
                more = "; further ones are in status" if self._told == _TOLD_AT_MOST else ""
                text = f"self-test: {pair}: {said(after.last)}{more}"
                log.error("%s", text, extra=carrying(Kind.UNREACHED, fields))
        elif before.state is Reached.FALLEN and (self._told <= _TOLD_AT_MOST or not fallen):
            rest = f"; {fallen} do not" if fallen else ""
            log.info("self-test: %s arrives again%s", pair, rest, extra=carrying(Kind.REACHED, fields))
        if not fallen:
            self._told = 0
