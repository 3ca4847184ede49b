"""What is answered to a path: readiness with reasons, liveness, status. Pure, but for what the board is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from dsr_agent import __version__
from dsr_agent.reconcile.resolve import Wanted
from dsr_agent.service.board import Board
from dsr_agent.service.check_rows import check_rows
from dsr_agent.service.overview import Overview
from dsr_agent.service.readiness import About, NotReady, Readiness
from dsr_agent.service.span_rows import drained_json, held_json
from dsr_agent.service.status import Status, as_json
from dsr_agent.service.subjects import find_vip
from dsr_agent.service.web.agent_check import line, unknown
from dsr_agent.state.model import Ip
from dsr_agent.truth.reach import Reached

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"

# What a person reads at once; /status has all of it.
_MOST_REASONS = 50


class Response(NamedTuple):
    """What goes back."""

    status: int
    content_type: str
    body: bytes


def text(status: int, lines: list[str]) -> Response:
    """An answer in words."""
    shown = lines[:_MOST_REASONS]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more (/status has all)")
    return Response(status, _TEXT, ("\n".join(shown) + "\n").encode())


def _of(why: list[NotReady]) -> Response:
    return text(503, [reason.text for reason in why]) if why else text(200, ["ok"])


NOT_FOUND = text(404, ["/metrics /livez /readyz /readyz/VIP /status"])
NOT_ALLOWED = text(405, ["GET or HEAD"])


class Endpoints:
    """Answers from the board. What is worked out from a overview is kept until there is another one."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._overview: Overview | None = None
        self._status = Status.of(board.overview.desired, board.overview.observed, os.getpid())

    def status_of(self, overview: Overview) -> Status:
        """*overview*, worked out."""
        if overview is not self._overview:
            self._status = Status.of(overview.desired, overview.observed, os.getpid())
            self._overview = overview
        return self._status

    def wanted(self, overview: Overview) -> Wanted:
        """What the tunnels of *overview* come to."""
        return self.status_of(overview).wanted

    def __call__(self, path: str) -> Response:
        """The answer to *path*, metrics excepted."""
        exact: dict[str, Callable[[], Response]] = {
            "/livez": self.livez,
            "/readyz": self.readyz,
            "/status": self.status,
        }
        if path in exact:
            return exact[path]()
        if path.startswith("/readyz/"):
            return self.readyz_of(unquote(path.removeprefix("/readyz/")))
        return NOT_FOUND

    def livez(self) -> Response:
        """Whether the loop turns."""
        age = self._board.turn_age
        if self._board.alive:
            return text(200, [f"ok: the loop turned {age:.1f} s ago"])
        return text(503, [f"the loop has not turned for {age:.0f} s"])

    def readyz(self) -> Response:
        """Whether everything is as the file says, now, and the self-test finds nothing else."""
        overview = self._board.overview
        return _of(self._not_yet(overview) or self.readiness(overview).everything())

    def readyz_of(self, name: str) -> Response:
        """Whether requests to one VIP would be answered, as far as is known here."""
        overview = self._board.overview
        key = find_vip(overview.desired, name)
        if key is None:
            return text(404, [f"no VIP of that name or address: {name[:80]}"])
        return _of(self._not_yet(overview) or self.readiness(overview).of(key, overview.desired.vips[key]))

    def agent_check(self, name: str) -> str:
        """The same in the words of HAProxy's agent check: about one VIP, or everything if *name* is empty."""
        overview = self._board.overview
        key = find_vip(overview.desired, name) if name else None
        if name and key is None:
            return unknown(name)
        readiness = self.readiness(overview)
        why = readiness.of(key, overview.desired.vips[key]) if key else readiness.everything()
        return line(self._not_yet(overview) or why)

    def readiness(self, overview: Overview) -> Readiness:
        """What is ready and what is not, now."""
        board = self._board
        return Readiness(
            overview,
            probes=board.probes,
            services=board.services,
            drains=board.drains,
            now=board.wall(),
            checks=board.checks,
            status=lambda: self.status_of(overview),
        )

    def reasons(self, overview: Overview) -> Iterator[tuple[Ip, list[NotReady]]]:
        """Each VIP, and why it is not ready; as ``/readyz/VIP`` has it."""
        held_back, readiness = self._not_yet(overview), self.readiness(overview)
        for key, vip in overview.desired.vips.items():
            yield key.ip, held_back or readiness.of(key, vip)

    def _not_yet(self, overview: Overview) -> list[NotReady]:
        if not overview.passes:
            return [NotReady(About.STARTING, "the first pass has not ended yet")]
        if not self._board.alive:
            return [NotReady(About.STUCK, f"the loop has not turned for {self._board.turn_age:.0f} s")]
        return []

    def status(self) -> Response:
        """What ``dsr-agent status --json`` prints, and how the agent itself is."""
        overview = self._board.overview
        found = {service: standing.finding for service, standing in self._board.services.items()}
        body = as_json(self.status_of(overview), found)
        body["in_sync"] = overview.in_sync
        body["agent"] |= self._agent(overview)
        return Response(200, _JSON, json.dumps(body).encode() + b"\n")

    def _agent(self, overview: Overview) -> dict[str, Any]:
        board = self._board
        return {
            "version": __version__,
            "started_at": round(board.started_at, 3),
            "last_turn_age": round(board.turn_age, 3),
            "reload": {
                "successful": board.file.good,
                "tried_at": round(board.file.tried_at, 3),
                "succeeded_at": round(board.file.good_at, 3),
                "refusals": list(board.file.refusals),
            },
            "undone": {str(key): list(reasons) for key, reasons in overview.undone.items()},
            "fights": {str(key): times for key, times in overview.fights.items()},
            "foreign_drops": list(board.foreign_drops),
            "not_ready": {str(ip): [each.text for each in why] for ip, why in self.reasons(overview) if why},
            "checks": check_rows(board.checks),
            "drained": drained_json(board),
            "held": held_json(board.holds, overview.desired, board.wall()),
            "self_test": self._self_test(),
        }

    def _self_test(self) -> dict[str, Any]:
        probes = self._board.probes
        states = [reach.state for reach in probes.reaches.copy().values()]
        return {
            "off": probes.off or None,
            "pairs": probes.pairs,
            "silent": probes.silent or None,
            "arriving": states.count(Reached.UP),
            "fallen": {str(ip): dict(why) for ip, why in probes.fallen.copy().items()},
        }
