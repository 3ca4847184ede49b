"""What this host's own tools may ask for, by the unix socket alone: drain and undrain."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import isfinite
from typing import Any

from dsr_agent.service.board import Board
from dsr_agent.service.drain_keeper import LONGEST, DrainKeeper
from dsr_agent.service.drain_rows import drained_json
from dsr_agent.service.subjects import find_vip
from dsr_agent.service.web.endpoints import Response
from dsr_agent.state.model import Ip

_JSON = "application/json"


class _RefusedError(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Changes:
    """Carries out what is sent to ``/drain`` and ``/undrain``. Writes a file, so it is not for a loop's thread."""

    def __init__(self, board: Board, keeper: DrainKeeper) -> None:
        self._board = board
        self._keeper = keeper
        self.paths: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
            "/drain": self._drain,
            "/undrain": self._undrain,
        }

    def __call__(self, path: str, body: bytes, uid: int | None) -> Response:
        """What comes of *body*, sent to *path* by somebody with this user id."""
        try:
            if uid not in (0, os.geteuid()):
                raise _RefusedError(HTTPStatus.FORBIDDEN, "only root and the agent's own user may do this")
            trouble = self.paths[path](_read(body))
        except _RefusedError as error:
            return _answer(error.status, {"ok": False, "error": str(error)})
        drained = drained_json(self._board)
        return _answer(HTTPStatus.OK, {"ok": not trouble, "not_kept": trouble or None, "drained": drained})

    def _drain(self, asked: Mapping[str, Any]) -> str:
        seconds = asked.get("seconds")
        if seconds is not None:
            number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not (number and isfinite(seconds) and 0 < seconds <= LONGEST):
                raise _RefusedError(HTTPStatus.BAD_REQUEST, f"{seconds!r} is not a time that can be waited for")
        return self._keeper.drain(self._vips(asked), seconds)

    def _undrain(self, asked: Mapping[str, Any]) -> str:
        return self._keeper.undrain(self._vips(asked))

    def _vips(self, asked: Mapping[str, Any]) -> tuple[Ip, ...]:
        """Those that are named, by address or name; what is drained can be named although the file has it no more."""
        names = asked.get("vips")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "vips has to be a list of addresses or names")
        gone = {str(ip): ip for ip in self._board.drains.vips}
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
