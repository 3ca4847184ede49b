"""What is drained, as JSON, for ``status``, ``drain`` and ``undrain``. Pure, but for what the board is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_agent.service.board import Board
from dsr_agent.state.model import Ip
from dsr_agent.truth.arrivals import Arrival
from dsr_agent.truth.drains import Drain


def drained_json(board: Board) -> dict[str, Any]:
    """The host, if it is drained as a whole, and each VIP that is, with what still arrives for it."""
    now, drains, arrivals = board.wall(), board.drains, board.arrivals
    host = drains.of_host(now)
    vips = board.overview.desired.vips.items()
    rows = [
        {
            "vip": str(key.ip),
            "name": vip.name,
            "declared": True,
            **_span(drain),
            "arriving": _arriving(arrivals, key.ip),
        }
        for key, vip in vips
        if (drain := drains.of(key.ip, now))
    ]
    known = {key.ip for key, _ in vips}
    rows += [
        {"vip": str(ip), "name": None, "declared": False, **_span(drain), "arriving": None}
        for ip, drain in drains.current(now).vips.items()
        if ip not in known
    ]
    return {"host": _span(host) if host else None, "vips": rows}


def _span(drain: Drain) -> dict[str, Any]:
    until = None if drain.until is None else round(drain.until, 3)
    return {"since": round(drain.since, 3), "until": until}


def _arriving(arrivals: Mapping[Ip, Arrival], ip: Ip) -> dict[str, Any] | None:
    """What came since it is watched, as the guard counts it; None without a guard."""
    found = arrivals.get(ip)
    if found is None:
        return None
    last = None if found.last_at is None else round(found.last_at, 3)
    return {"packets": found.packets, "since": round(found.since, 3), "last_at": last}
