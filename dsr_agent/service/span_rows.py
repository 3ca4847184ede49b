"""What is drained and what is held, as JSON, for ``status`` and the verbs that change it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_agent.service.board import Board
from dsr_agent.state.model import Desired, Ip
from dsr_agent.truth.arrivals import Arrival
from dsr_agent.truth.spans import Span, Spans


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


def held_json(holds: Spans, desired: Desired, now: float) -> dict[str, Any]:
    """Each VIP that is held."""
    names = {ip: desired.vips[key].name for ip, key in desired.key_of_ip.items() if ip in holds.vips}
    current = holds.current(now).vips.items()
    rows = [{"vip": str(ip), "name": names.get(ip), "declared": ip in names, **_span(hold)} for ip, hold in current]
    return {"vips": rows}


def _span(found: Span) -> dict[str, Any]:
    until = None if found.until is None else round(found.until, 3)
    return {"since": round(found.since, 3), "until": until}


def _arriving(arrivals: Mapping[Ip, Arrival], ip: Ip) -> dict[str, Any] | None:
    """What came since it is watched, as the guard counts it; None without a guard."""
    found = arrivals.get(ip)
    if found is None:
        return None
    last = None if found.last_at is None else round(found.last_at, 3)
    return {"packets": found.packets, "since": round(found.since, 3), "last_at": last}
