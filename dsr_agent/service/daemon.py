"""
``dsr-agent run``: the wiring of settings, kernel, reconciler, signals, the log, and what the outside hears.

Stopping leaves the data plane as it is; only ``dsr-agent teardown`` takes it away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dsr_agent.config import Loaded
from dsr_agent.kernel.host import Host
from dsr_agent.kernel.netns import path_of
from dsr_agent.kernel.probe import Prober
from dsr_agent.reconcile.loop import Reconciler, Rhythm
from dsr_agent.service import arrivals, namespace, other_firewalls
from dsr_agent.service.board import Board, sentence
from dsr_agent.service.checks import memory
from dsr_agent.service.checks.memory import Memory
from dsr_agent.service.checks.schedule import Checks
from dsr_agent.service.clock import SteadyClock
from dsr_agent.service.journal import Kind, carrying
from dsr_agent.service.listeners import Beat, Listeners
from dsr_agent.service.narrator import Narrator
from dsr_agent.service.notify import Notifier
from dsr_agent.service.probing import SelfTest
from dsr_agent.service.span_keeper import DRAIN, HOLD, Keepers, SpanKeeper, place
from dsr_agent.state.errors import ConfigError, DsrError
from dsr_agent.state.report import PassCause, Report
from dsr_agent.truth.spans import Spans

if TYPE_CHECKING:
    from dsr_agent.service.web.server import Web

log = logging.getLogger("dsr_agent")

# How long one thread may keep the interpreter while another wants it: a repair makes a dozen system calls, and may
# have to wait this long after each while somebody scrapes.
_SWITCH_INTERVAL = 0.0005

# A loop that has not come round for so many of its beats is stuck.
_PATIENCE = 4
_BEAT = 10.0
_PAUSE = 10.0  # before something that went wrong unforeseen is begun again


class Daemon:
    """One running agent."""

    def __init__(self, load: Callable[[], Loaded], loaded: Loaded, host: Host) -> None:
        self._load = load
        self._loaded = loaded
        self._host = host
        self._notifier = Notifier(os.environ)
        self._board = Board()
        self._narrator = Narrator(loaded.desired)
        self._keepers = Keepers(
            SpanKeeper(DRAIN, self._board, place(DRAIN, os.environ), self._show_drains),
            SpanKeeper(HOLD, self._board, place(HOLD, os.environ), self._show_holds),
        )
        self._listeners = Listeners(self._board, _beat(loaded))
        self._checks = Checks(self._board, loaded.settings.check, Memory(memory.place(os.environ)))
        self._web: Web | None = None
        self._aside: asyncio.Task[None] | None = None
        self._misplaced: DsrError | None = None
        self._asked_to_reload = asyncio.Event()
        self._self_test = SelfTest(self._board, loaded.settings.probe, SteadyClock(), Prober)
        self._reconciler = Reconciler(
            host,
            loaded.desired,
            clock=SteadyClock(),
            publish=self._publish,
            rhythm=self._rhythm(loaded),
            turned=self._turned,
        )

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; on SIGHUP, read the file again. Raises `DsrError` where it cannot do its work."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # `cli` has it wait for this
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        warn(self._loaded)
        self._keepers.holds.load()  # before the first pass: it must not put back what is held
        self._hold()
        reloads = asyncio.create_task(_kept_up("SIGHUP", self._follow_reloads))
        try:
            await self._reconciler.run()
        finally:
            reloads.cancel()
            if self._aside:
                self._aside.cancel()
            if self._web:
                self._web.stop()
        if self._misplaced:
            raise self._misplaced
        log.info(
            "stopped; tunnels and VIPs stay as they are (dsr-agent teardown removes them)",
            extra=carrying(Kind.STOPPED),
        )

    def _publish(self, report: Report) -> None:
        for line in self._narrator.tell(report):
            log.log(line.level, line.text, extra=carrying(line.kind, line.fields))
        self._board.add(report)
        if report.cause is PassCause.RELOAD or report.outcomes:
            self._listeners.soon.set()
            self._checks.changed.set()
        if report.cause in (PassCause.START, PassCause.RELOAD):
            self._notifier.ready(self._sentence())
        else:
            self._notifier.status(self._sentence())
        self._self_test.looked()
        if self._aside is None:
            self._aside = asyncio.create_task(self._afterwards())

    def _turned(self) -> None:
        self._board.turned()
        self._notifier.turned()

    async def _afterwards(self) -> None:
        """All that can wait until the data plane stands: what repairs need, then HTTP and metrics, then the rest."""
        await _tried("repairs may begin late", self._host.warm_up)
        # Before anybody can ask, so that a restart says nothing else than was said before it.
        await _tried("drains are not known", lambda: asyncio.to_thread(self._keepers.drains.load))
        await _tried("what checks found is not known", self._checks.load)
        await _tried("listeners are not known", self._listeners.look)
        await _tried("HTTP and metrics cannot be served", lambda: asyncio.to_thread(self._serve), Kind.HTTP)
        await asyncio.gather(
            _kept_up("other firewalls", lambda: other_firewalls.watch(self._board, self._host)),
            _kept_up("listeners", self._listeners.watch),
            _kept_up("applications", self._checks.watch),
            _kept_up("the self-test", self._self_test.run),
            _kept_up("drains", self._keepers.drains.watch),
            _kept_up("holds", self._keepers.holds.watch),
            _kept_up("held VIPs", self._follow_holds),
            _kept_up("arrivals", lambda: arrivals.watch(self._board, self._keepers.drains.changed)),
            _kept_up("the network namespace", self._stay),
        )

    def _serve(self) -> None:
        from dsr_agent.service.web import assembly  # noqa: PLC0415  as long as all other imports together

        sys.setswitchinterval(_SWITCH_INTERVAL)
        web = assembly.web(self._board, self._keepers, self._host.farewells, lambda: self._host.announcements_lost)
        web.start(assembly.wanted(self._loaded.settings))
        self._web = web

    async def _stay(self) -> None:
        """End when the name of this network namespace is another one's: whoever starts this again starts it there."""
        netns = self._loaded.settings.agent.netns
        if netns and not path_of(netns).is_relative_to("/proc"):  # a process id that is used again says nothing
            self._misplaced = await namespace.replaced(netns, lambda: self._loaded.settings.agent.poll_interval)
            self._stop()

    def _show_drains(self, spans: Spans) -> None:
        self._board.drains = spans

    def _show_holds(self, spans: Spans) -> None:
        self._board.holds = spans

    def _hold(self) -> None:
        self._reconciler.hold(frozenset(self._keepers.holds.spans.current(self._board.wall()).vips))

    async def _follow_holds(self) -> None:
        """Have the loop go by what is held; until cancelled."""
        while True:
            self._keepers.holds.changed.clear()
            self._hold()
            await self._keepers.holds.changed.wait()

    def _reload_soon(self) -> None:
        self._notifier.reloading()
        self._asked_to_reload.set()

    async def _follow_reloads(self) -> None:
        """Read the file again whenever that was asked for; until cancelled."""
        while True:
            await self._asked_to_reload.wait()
            self._asked_to_reload.clear()
            try:
                await self._reload()
            except Exception:
                self._notifier.ready(self._sentence())  # whoever asked is not to wait for ever
                raise

    async def _reload(self) -> None:
        try:
            fresh = await asyncio.to_thread(self._load)  # of 10,000 VIPs it takes seconds, and repairs go on meanwhile
            _stays(self._loaded, fresh)
        except ConfigError as error:
            for refusal in error.refusals:
                log.error("%s", refusal, extra=carrying(Kind.REFUSED))
            log.error("the file cannot be used; going on as before", extra=carrying(Kind.REFUSED))
            self._board.file_refused(error.refusals)
            self._notifier.ready(self._sentence())
            return
        warn(fresh)
        if _says_something(self._loaded) and not _says_something(fresh):
            text = (
                "the file declares no tunnel and no VIP any more, so all that were made here are removed: is it whole?"
            )
            log.warning("%s (%s)", text, ", ".join(map(str, fresh.files)), extra=carrying(Kind.WARNED))
        log.setLevel(fresh.settings.agent.log_level.upper())
        self._loaded = fresh
        self._listeners.beat = _beat(fresh)
        self._checks.wanted = fresh.settings.check
        self._board.file_good()
        self._narrator.reload(fresh.desired)
        self._reconciler.reload(fresh.desired, self._rhythm(fresh))
        self._self_test.change(fresh.settings.probe)
        if self._web:
            from dsr_agent.service.web import assembly  # noqa: PLC0415  imported already, where there is a web

            self._web.change(assembly.wanted(fresh.settings))

    def _stop(self) -> None:
        self._notifier.stopping()
        self._reconciler.stop()

    def _sentence(self) -> str:
        return sentence(self._board.overview, self._board.file)

    def _rhythm(self, loaded: Loaded) -> Rhythm:
        """How often to look without being told, as the file says, and to turn, as the watchdog wants."""
        agent = loaded.settings.agent
        beat = min(self._notifier.beat or _BEAT, _BEAT)
        self._board.patience = max(_PATIENCE * beat, 15.0)
        return Rhythm(poll=agent.poll_interval, resync=agent.resync_interval, beat=beat)


def _stays(before: Loaded, fresh: Loaded) -> None:
    """Refuse a file that names another network namespace: everything this process has open is in this one."""
    here, there = before.settings.agent.netns, fresh.settings.agent.netns
    if (here and path_of(here)) != (there and path_of(there)):
        found, was = (f'netns = "{netns}"' if netns else "no netns" for netns in (there, here))
        remedy = "systemctl restart dsr-agent, or write it as it was"
        text = f"found {found}, and the agent was started with {was}: {remedy}"
        raise ConfigError((f"{fresh.files[0]}: agent.netns: {text}",))


def _says_something(loaded: Loaded) -> bool:
    return bool(loaded.desired.tunnels or loaded.desired.vips)


def _beat(loaded: Loaded) -> Beat:
    said = loaded.settings.listeners
    return Beat(said.interval, said.rise, said.fall)


async def _kept_up(what: str, watch: Callable[[], Awaitable[None]]) -> None:
    """Run a watch for ever: one that stumbles over something unforeseen says so, and begins again."""
    while True:
        try:
            await watch()
        except Exception:
            log.exception("watching %s failed; beginning again", what, extra=carrying(Kind.WARNED))
        await asyncio.sleep(_PAUSE)


async def _tried(lacking: str, step: Callable[[], Awaitable[object]], kind: Kind = Kind.WARNED) -> None:
    """Do without what cannot be had (no socket, no memory, half an upgrade): nothing is worth the data plane."""
    try:
        await step()
    except Exception:
        log.exception("%s", lacking, extra=carrying(kind))


async def run(load: Callable[[], Loaded], loaded: Loaded) -> None:
    """
    Keep this host as *loaded* says until SIGTERM or SIGINT; on SIGHUP, *load* again.

    A file that cannot be used at a reload changes nothing: what ran before goes on, and the log says why.
    """
    async with Host(hold=True) as host:
        await Daemon(load, loaded, host).run()


def warn(loaded: Loaded) -> None:
    """Say what in the file is legal and suspicious."""
    for warning in loaded.warnings:
        log.warning("%s", warning, extra=carrying(Kind.WARNED))
