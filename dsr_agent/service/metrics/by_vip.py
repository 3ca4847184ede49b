"""The rows that each VIP has, and only those that say something: see `rows`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dsr_agent.service.board import Board
from dsr_agent.service.metrics import guard
from dsr_agent.service.metrics.sheets import Sheet
from dsr_agent.service.overview import Overview
from dsr_agent.state.count import Counted
from dsr_agent.state.model import Ip


def rows(
    board: Board, overview: Overview, names: Mapping[Ip, str], ready: Iterable[tuple[Ip, bool]], counted: Counted
) -> Iterator[tuple[str, Sheet]]:
    """
    By family, and by the label beside ``vip``; *names* are the declared VIPs as text.

    Two for each VIP; one for each service that it declares, and for each tunnel that the self-test knows to reach it
    or not to; two where a guard has counted; and one while it is drained.
    """
    there, now = overview.observed.addresses, board.wall()
    yield "dsr_vip_present", {"": ((names[key.ip], int(key in there)) for key in overview.desired.vips)}
    yield "dsr_vip_ready", {"": ((names[ip], int(good)) for ip, good in ready)}
    drains = board.drains
    yield "dsr_vip_drained", {"": ((vip, 1) for ip, vip in names.items() if drains.of(ip, now)) if drains else ()}
    yield "dsr_service_listening", _listening(board, names)
    yield "dsr_probe_success", _reached(board, names)
    received = guard.received(names.values(), counted) if overview.desired.guard and counted else {}
    yield "dsr_vip_received_packets_total", {"": ((vip, count.packets) for vip, count in received.items())}
    yield "dsr_vip_received_bytes_total", {"": ((vip, count.bytes) for vip, count in received.items())}


def _listening(board: Board, names: Mapping[Ip, str]) -> Sheet:
    found: dict[str, list[tuple[str, int]]] = {}
    for service, standing in board.services.items():
        if vip := names.get(service.vip.ip):
            found.setdefault(service.name, []).append((vip, int(standing.up)))
    return found


def _reached(board: Board, names: Mapping[Ip, str]) -> Sheet:
    found: dict[str, list[tuple[str, int]]] = {}
    for pair, reach in board.probes.reaches.copy().items():
        good, vip = reach.state.value, names.get(pair.vip)
        if good is not None and vip:
            found.setdefault(pair.tunnel, []).append((vip, int(good)))
    return found
