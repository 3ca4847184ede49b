"""
HTTP and metrics, put together. Import this when the data plane stands: its imports take as long as all others.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dsr_agent.config import Settings
from dsr_agent.guard import counters
from dsr_agent.kernel import stats
from dsr_agent.kernel.firewall import Firewall
from dsr_agent.kernel.netlink import Channel
from dsr_agent.service.board import Board
from dsr_agent.service.metrics.collector import HttpCounts, Metrics, Sources
from dsr_agent.service.span_keeper import Keepers
from dsr_agent.service.web.changes import Changes
from dsr_agent.service.web.endpoints import Endpoints
from dsr_agent.service.web.requests import Site
from dsr_agent.service.web.server import Web
from dsr_agent.service.web.sockets import Tls, Wanted, default_socket


def web(
    board: Board,
    keepers: Keepers,
    farewells: deque[stats.Counted],
    events_lost: Callable[[], int],
    root: Path = Path("/"),
) -> Web:
    """The server for *board*; nothing is open yet."""
    answers = Endpoints(board)
    counted = HttpCounts()
    # Opened by whoever renders: a netlink socket is for one thread.
    channel: list[Channel] = []
    contexts: list[Firewall] = []

    def links(names: Iterable[str]) -> Mapping[str, stats.Counted]:
        if not channel:
            channel.append(Channel())
        return stats.read(channel[0], names)

    def guard() -> counters.Counted | None:
        if not contexts:
            contexts.append(Firewall(listen=False))
        objects = contexts[0].listing()
        return None if objects is None else counters.counted(objects)

    def gone() -> list[stats.Counted]:
        return [farewells.popleft() for _ in range(len(farewells))]

    sources = Sources(links, gone, guard, lambda: stats.protocols(root), events_lost, answers.wanted, answers.reasons)
    return Web(Site(answers, Metrics(board, sources, counted), counted, Changes(board, keepers)))


def wanted(settings: Settings, environ: Mapping[str, str] = os.environ) -> Wanted:
    """Where the file wants HTTP to be had."""
    http = settings.http
    tls = Tls(http.certificate, http.key, http.client_ca) if http.certificate else None
    return Wanted(http.listen, settings.agent_check.listen, http.socket or default_socket(environ), tls)
