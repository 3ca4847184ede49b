"""The agent's life over a `FakeKernel` and a `FakeClock`: the machine, the log and the passes, asserted together."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from functools import lru_cache
from pathlib import Path
from textwrap import dedent
from types import TracebackType
from typing import Self

from dsr_agent.config import load
from dsr_agent.reconcile.loop import Reconciler, Rhythm
from dsr_agent.service.narrator import Narrator
from dsr_agent.state.model import Desired
from dsr_agent.state.report import Report
from tests.fake.clock import FakeClock
from tests.fake.kernel import FakeKernel

FILE = """
[[tunnel]]
encapsulation = "ipip"
load_balancers = ["10.1.0.5"]

[[vip]]
address = "192.0.2.10"

[[vip]]
address = "2001:db8::10"
"""

HOST = """
lo up
eth0 arp up
  10.0.3.2/24
10.1.0.5 is reached from 10.0.3.2
"""

# HOST, once FILE was applied to it.
IN_SYNC = """\
lo up
  192.0.2.10/32 ours
  2001:db8::10/128 ours
eth0 arp up
  10.0.3.2/24
  arp_ignore=1 arp_announce=2
sit0 sit down
dsr-ipip sit local 10.0.3.2 up ours
  192.0.0.8/32 ours
  rp_filter=2 ipv6.addr_gen_mode=1
10.1.0.5 is reached from 10.0.3.2
modules sit"""


# Most stories are not about the guard; those that are have a [guard] in their file.
NO_GUARD = {"DSR_AGENT_GUARD__ENABLED": "false"}


@lru_cache(maxsize=256)
def desired(file: str) -> Desired:
    """What the user's *file* (its text) comes to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dsr-agent.toml")
        path.write_text(dedent(file))
        return load(path, environ={} if "[guard]" in file else NO_GUARD).desired


def sorted_lines(host: str) -> list[tuple[str, list[str]]]:
    """A machine as text, its addresses in no particular order: what is put back comes last in the kernel's list."""
    blocks: list[tuple[str, list[str]]] = []
    for line in host.splitlines():
        if line.startswith(" "):
            blocks[-1][1].append(line)
        else:
            blocks.append((line, []))
    return sorted((head, sorted(rest)) for head, rest in blocks)


class Story:
    """
    The agent running over *kernel*; a context manager.

    Entering it, the first pass has been made; leaving it, the agent has stopped.
    """

    def __init__(self, file: str = FILE, host: str = HOST, *, rhythm: Rhythm | None = None) -> None:
        self.kernel = FakeKernel(host)
        self.clock = FakeClock()
        self.reports: list[Report] = []
        self._lines: list[str] = []
        self._narrator = Narrator(desired(file))
        self.reconciler = Reconciler(self.kernel, desired(file), clock=self.clock, publish=self._publish, rhythm=rhythm)
        self._running: asyncio.Task[None] | None = None

    def _publish(self, report: Report) -> None:
        self.reports.append(report)
        self._lines += [f"{logging.getLevelName(line.level)} {line.text}" for line in self._narrator.tell(report)]

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.reconciler.run())
        await self.moment()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self.reconciler.stop()
        if kind is None:
            await self.clock.settle()
            await asyncio.wait_for(self._running, 5)
            self.kernel.assert_failures_were_met()
        else:
            self._running.cancel()

    async def moment(self) -> None:
        """Wait for what an announcement leads to, collecting included; nothing that is not announced is met."""
        await self.seconds(0.1)

    async def seconds(self, seconds: float) -> None:
        """Let time pass; an agent that ended in the meantime is the test's failure."""
        await self.clock.advance(seconds)
        assert self._running is not None
        if self._running.done():
            self._running.result()

    async def hears(self, *commands: str, by: int = 0) -> None:
        """Somebody runs *commands*, and a moment passes."""
        self.kernel.meddle(*commands, by=by)
        await self.moment()

    def reload_now(self, file: str) -> None:
        """SIGHUP, with another file in place."""
        self._narrator.reload(desired(file))
        self.reconciler.reload(desired(file))

    async def reload(self, file: str) -> None:
        """SIGHUP, with another file in place, and a moment passes."""
        self.reload_now(file)
        await self.moment()

    def log(self) -> list[str]:
        """What was logged since last asked."""
        lines, self._lines = self._lines, []
        return lines

    def passes(self) -> list[Report]:
        """The passes since last asked."""
        reports, self.reports = self.reports, []
        return reports

    @property
    def host(self) -> str:
        """The machine, as text."""
        return str(self.kernel)
