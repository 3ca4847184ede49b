"""
``dsr-agent run``: the wiring of settings, kernel and reconciler, signals, and the log.

Stopping leaves the data plane as it is; only ``dsr-agent teardown`` takes it away.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from dsr_agent.config import Loaded
from dsr_agent.kernel.host import Host
from dsr_agent.reconcile.loop import Reconciler, Rhythm
from dsr_agent.service.clock import SteadyClock
from dsr_agent.service.narrator import Narrator
from dsr_agent.state.errors import ConfigError
from dsr_agent.state.report import Cause, Report

log = logging.getLogger("dsr_agent")


async def run(load: Callable[[], Loaded], loaded: Loaded) -> None:
    """
    Keep this host as *loaded* says until SIGTERM or SIGINT; on SIGHUP, *load* again.

    A file that cannot be used at a reload changes nothing: what ran before goes on, and the log says why.
    """
    narrator = Narrator(loaded.desired)

    async with Host() as host, asyncio.TaskGroup() as aside:

        def publish(report: Report) -> None:
            for line in narrator.tell(report):
                log.log(line.level, line.text)
            if report.cause is Cause.START:
                aside.create_task(host.warm_up())

        reconciler = Reconciler(host, loaded.desired, clock=SteadyClock(), publish=publish, rhythm=rhythm_of(loaded))

        def reload() -> None:
            try:
                fresh = load()
            except ConfigError as error:
                for refusal in error.refusals:
                    log.error("%s", refusal)
                log.error("the file cannot be used; going on as before")
                return
            warn(fresh)
            log.setLevel(fresh.settings.agent.log_level.upper())
            narrator.reload(fresh.desired)
            reconciler.reload(fresh.desired, rhythm_of(fresh))

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, reconciler.stop)
        warn(loaded)
        await reconciler.run()
        log.info("stopped; tunnels and VIPs stay as they are (dsr-agent teardown removes them)")


def warn(loaded: Loaded) -> None:
    """Say what in the file is legal and suspicious."""
    for warning in loaded.warnings:
        log.warning("%s", warning)


def rhythm_of(loaded: Loaded) -> Rhythm:
    """How often to look without being told, as the file says."""
    agent = loaded.settings.agent
    return Rhythm(poll=agent.poll_interval, resync=agent.resync_interval)
