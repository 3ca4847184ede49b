"""
HTTP and metrics, put together. Import this when the data plane stands: its imports take as long as all others.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dsr_agent.config import Settings
from dsr_agent.kernel import stats
from dsr_agent.kernel.guard_counts import GuardCounts
from dsr_agent.kernel.netlink import Channel
from dsr_agent.service.board import Board
from dsr_agent.service.metrics.collector import HttpCounts, Metrics, Readers
from dsr_agent.service.span_keeper import Keepers
from dsr_agent.service.web.changes import ChangeRequests
from dsr_agent.service.web.endpoints import Endpoints
from dsr_agent.service.web.requests import Site
from dsr_agent.service.web.server import Web
from dsr_agent.service.web.sockets import ListenSettings, Tls, default_socket


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

    def links(names: Iterable[str]) -> Mapping[str, stats.Counted]:
        if not channel:
            channel.append(Channel())
        return stats.read(channel[0], names)

    def gone() -> list[stats.Counted]:
        return [farewells.popleft() for _ in range(len(farewells))]

    guard, protocols = GuardCounts().read, lambda: stats.protocols(root)
    sources = Readers(links, gone, guard, protocols, events_lost, answers.wanted, answers.reasons)
    return Web(Site(answers, Metrics(board, sources, counted), counted, ChangeRequests(board, keepers)))


def wanted(settings: Settings, environ: Mapping[str, str] = os.environ) -> ListenSettings:
    """Where the file wants HTTP to be had."""
    http = settings.http
    tls = Tls(http.certificate, http.key, http.client_ca) if http.certificate else None
    return ListenSettings(http.listen, settings.agent_check.listen, http.socket or default_socket(environ), tls)
