"""What this host's own tools may ask for, by the unix socket alone: drain and undrain, hold and release."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import isfinite
from typing import Any

from dsr_agent.service.board import Board
from dsr_agent.service.overview import Overview
from dsr_agent.service.span_keeper import LONGEST, Keepers, SpanKeeper
from dsr_agent.service.span_rows import drained_json, held_json
from dsr_agent.service.subjects import find_vip
from dsr_agent.service.web.endpoints import Response
from dsr_agent.state.model import Ip

_JSON = "application/json"

# Whoever takes a VIP away the moment that hold has answered must not see it put back: the loop has to know by then.
# A pass takes milliseconds, or most of a second for 10,000 VIPs.
PATIENCE = 5.0


class _RefusedError(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class ChangeRequests:
    """Carries out what is sent to the *paths*. Writes files and waits for the loop, so it is not for their threads."""

    def __init__(self, board: Board, keepers: Keepers) -> None:
        self._board = board
        self._drains, self._holds = keepers
        self.paths: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "/drain": self._drain,
            "/undrain": self._undrain,
            "/hold": self._hold,
            "/release": self._release,
        }

    def __call__(self, path: str, body: bytes, uid: int | None) -> Response:
        """What comes of *body*, sent to *path* by somebody with this user id."""
        try:
            if uid not in (0, os.geteuid()):
                raise _RefusedError(HTTPStatus.FORBIDDEN, "only root and the agent's own user may do this")
            return _answer(HTTPStatus.OK, self.paths[path](_read(body)))
        except _RefusedError as error:
            return _answer(error.status, {"ok": False, "error": str(error)})

    def _drain(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._drained(self._drains.begin(self._vips(asked, self._drains), _seconds(asked)))

    def _undrain(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._drained(self._drains.end(self._vips(asked, self._drains)))

    def _drained(self, trouble: str) -> Mapping[str, Any]:
        return {"ok": not trouble, "not_kept": trouble or None, "drained": drained_json(self._board)}

    def _hold(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        ips = self._vips(asked, self._holds)
        if not ips:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "name the VIPs to hold")
        return self._held(self._holds.begin(ips, _seconds(asked)))

    def _release(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._held(self._holds.end(self._vips(asked, self._holds)))

    def _held(self, trouble: str) -> Mapping[str, Any]:
        if not self._board.until(self._in_force, PATIENCE):
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "kept, but the loop is busy and does not go by it yet")
        held = held_json(self._holds.spans, self._board.overview.desired, self._board.wall())
        return {"ok": not trouble, "not_kept": trouble or None, "held": held}

    def _in_force(self, overview: Overview) -> bool:
        """Whether the last pass went by what is held."""
        ips = self._holds.spans.current(self._board.wall()).vips
        return overview.desired.holding(ips) is overview.desired

    def _vips(self, asked: Mapping[str, Any], keeper: SpanKeeper) -> tuple[Ip, ...]:
        """Those that are named, by address or name; what *keeper* keeps can be named though the file has it no more."""
        names = asked.get("vips")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "vips has to be a list of addresses or names")
        gone = {str(ip): ip for ip in keeper.spans.vips}
        found: dict[Ip, None] = {}
        unknown = []
        for name in names:
            if key := find_vip(self._board.overview.desired, name):
                found[key.ip] = None
            elif name in gone:
                found[gone[name]] = None
            else:
                unknown.append(name[:80])
        if unknown:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"no VIP of that name or address: {', '.join(unknown[:10])}")
        return tuple(found)


def _seconds(asked: Mapping[str, Any]) -> float | None:
    seconds = asked.get("seconds")
    if seconds is None:
        return None
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and isfinite(seconds) and 0 < seconds <= LONGEST):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"{seconds!r} is not a time that can be waited for")
    return float(seconds)


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the request is not a JSON object")
    if asked.get("pid") != os.getpid():
        raise _RefusedError(HTTPStatus.CONFLICT, f"another agent answers here (process {os.getpid()})")
    return asked


def _answer(status: int, value: Mapping[str, Any]) -> Response:
    return Response(status, _JSON, json.dumps(value).encode() + b"\n")
