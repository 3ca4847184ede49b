"""
Asks all applications that the file wants asked, each on its own beat, and keeps on the board how they stand.

In the daemon's loop, which never waits for it: nothing here blocks, so many are asked at a time and no more, and their
beats are spread over the interval.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.board import Board
from dsr_agent.service.checks.asking import Target, ask, learn
from dsr_agent.service.checks.memory import Memory, text_of
from dsr_agent.service.checks.sources import Sources
from dsr_agent.service.checks.telling import Telling
from dsr_agent.service.overview import Overview
from dsr_agent.state.model import AddressKey, Desired, Ip, Vip
from dsr_agent.truth.checks import Answer, Asked, Checked

_MOST_AT_ONCE = 256
_MOST_COMMANDS_AT_ONCE = 16
# What was counted and not told is told this late at most.
_BEAT = 5.0


@dataclass(frozen=True)
class Errand:
    """One check of one VIP."""

    check: CheckSettings
    key: AddressKey
    vip: Vip

    @property
    def asked(self) -> Asked:
        return Asked(self.key.ip, self.check.name)


def errands(checks: Sequence[CheckSettings], desired: Desired) -> Iterator[Errand]:
    """What the file comes to."""
    for check in checks:
        for key, vip in desired.vips.items():
            if check.concerns(vip.ip, vip.name, vip.services):
                yield Errand(check, key, vip)


class Checks:
    """Keeps `Board.checks` true."""

    def __init__(self, board: Board, checks: Sequence[CheckSettings], memory: Memory) -> None:
        self.wanted = checks
        """What the file says; whoever changes it sets *changed*."""
        self.changed = asyncio.Event()
        """Set when there may be other checks or other VIPs."""
        self._board = board
        self._memory = memory
        self._arranged: tuple[Desired | None, Sequence[CheckSettings]] = (None, ())
        self._running: dict[Asked, tuple[Errand, asyncio.Task[None]]] = {}
        self._telling = Telling(time.monotonic)
        self._overview: Overview | None = None
        self._sources = Sources(Overview())

    async def load(self) -> None:
        """Take over what had fallen before a restart."""
        if self.wanted:
            self._board.checks = await asyncio.to_thread(self._memory.load)

    async def watch(self) -> None:
        """Until cancelled."""
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        self._command_places = asyncio.Semaphore(_MOST_COMMANDS_AT_ONCE)
        try:
            while True:
                self.changed.clear()
                desired = self._board.overview.desired
                if self._arranged[0] is not desired or self._arranged[1] is not self.wanted:
                    self._arranged = (desired, self.wanted)
                    await self._arrange(desired)
                await asyncio.to_thread(self._memory.keep, text_of(self._board.checks))
                try:
                    async with asyncio.timeout(_BEAT if self._running else None):
                        await self.changed.wait()
                except TimeoutError:
                    self._telling.flush()
        finally:
            for _, task in self._running.values():
                task.cancel()
            self._running.clear()
            self._arranged = (None, ())

    async def _arrange(self, desired: Desired) -> None:
        """End what is not wanted any more and begin what is new; what stays goes on without a pause."""
        wanted = {errand.asked: errand for errand in errands(self.wanted, desired)}
        for asked, (errand, task) in list(self._running.items()):
            if wanted.get(asked) != errand:
                task.cancel()
                del self._running[asked]
        fresh = [errand for asked, errand in wanted.items() if asked not in self._running]
        for protocol in sorted({errand.check.protocol for errand in fresh}):
            await learn(protocol)
        # One with another timeout is still the same check: what had fallen stays so until it answers.
        known, standings = self._board.checks, dict[Ip, Mapping[str, Checked]]()
        for ip, name in wanted:
            standings[ip] = {**standings.get(ip, {}), name: known.get(ip, {}).get(name, Checked())}
        self._board.checks = standings
        for number, errand in enumerate(fresh):
            wait = errand.check.interval * number / len(fresh)
            self._running[errand.asked] = (errand, asyncio.create_task(self._keep_asking(errand, wait)))

    async def _keep_asking(self, errand: Errand, wait: float) -> None:
        check = errand.check
        places = self._command_places if check.protocol == "command" else self._places
        await asyncio.sleep(wait)
        while True:
            began = time.monotonic()
            # A VIP that is not here would be asked for wherever the route goes; it is not ready for that alone.
            if errand.key in self._board.overview.observed.addresses:
                async with places:
                    answer = await ask(check, self._target(errand))
                self._take(errand, answer)
            await asyncio.sleep(max(check.interval - (time.monotonic() - began), 0.0))

    def _take(self, errand: Errand, answer: Answer) -> None:
        asked, check = errand.asked, errand.check
        of_vip = self._board.checks.get(asked.ip, {})
        before = of_vip.get(asked.check, Checked())
        now = before.after(answer, check.fall, check.rise)
        self._board.checks[asked.ip] = {**of_vip, asked.check: now}
        self._telling.changed(asked, before, now)
        if now.up is not before.up and False in (now.up, before.up):
            self.changed.set()  # so that it is kept

    def _target(self, errand: Errand) -> Target:
        if self._board.overview is not self._overview:
            self._overview = self._board.overview
            self._sources = Sources(self._overview)
        source = errand.check.source or self._sources.of(errand.vip)
        return Target(errand.key.ip, errand.check.service or "", source, errand.vip.vrf)
