"""The rows that each VIP has, and only those that say something: see `rows`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dsr_agent.service.board import Board
from dsr_agent.service.metrics import guard
from dsr_agent.service.metrics.sheets import Sheet
from dsr_agent.service.overview import Overview
from dsr_agent.service.readiness import NotReady
from dsr_agent.state.count import Counted
from dsr_agent.state.model import Ip

_Sheet = dict[tuple[str, ...], list[tuple[str, float]]]

Reasons = Iterable[tuple[Ip, Sequence[NotReady]]]


def rows(
    board: Board, overview: Overview, names: Mapping[Ip, str], reasons: Reasons, counted: Counted
) -> Iterator[tuple[str, Sheet]]:
    """
    By family; *names* are the declared VIPs as text.

    Two for each VIP, and two where a guard has counted; one for each service that it declares, and for each tunnel that
    the self-test knows to reach it or not to; two for each check, and one for each of its failures. All else is for
    VIPs that are not as they mostly are.
    """
    there, now = overview.observed.addresses, board.wall()
    yield "dsr_vip_present", {(): ((names[key.ip], key in there) for key in overview.desired.vips)}
    ready, lacking = _readiness(names, reasons)
    yield "dsr_vip_ready", ready
    yield "dsr_vip_not_ready_reason", lacking
    drains, held = board.drains, overview.desired.held
    yield "dsr_vip_drained", {(): ((vip, 1) for ip, vip in names.items() if drains.of(ip, now)) if drains else ()}
    yield "dsr_vip_held", {(): ((vip, 1) for ip, vip in names.items() if ip in held) if held else ()}
    yield "dsr_service_listening", _listening(board, names)
    yield from _checks(board, names)
    yield "dsr_probe_success", _reached(board, names)
    received = guard.received(names.values(), counted) if overview.desired.guard and counted else {}
    yield "dsr_vip_received_packets_total", {(): ((vip, count.packets) for vip, count in received.items())}
    yield "dsr_vip_received_bytes_total", {(): ((vip, count.bytes) for vip, count in received.items())}


def _readiness(names: Mapping[Ip, str], reasons: Reasons) -> tuple[Sheet, Sheet]:
    ready: _Sheet = {(): []}
    lacking: _Sheet = {}
    for ip, why in reasons:
        ready[()].append((names[ip], not why))
        for about in dict.fromkeys(each.about for each in why):
            lacking.setdefault((about,), []).append((names[ip], 1))
    return ready, lacking


def _listening(board: Board, names: Mapping[Ip, str]) -> Sheet:
    found: _Sheet = {}
    for service, standing in board.services.items():
        if vip := names.get(service.vip.ip):
            found.setdefault((service.name,), []).append((vip, standing.up))
    return found


def _checks(board: Board, names: Mapping[Ip, str]) -> Iterator[tuple[str, Sheet]]:
    up: _Sheet = {}
    took: _Sheet = {}
    failed: _Sheet = {}
    for ip, checks in board.checks.copy().items():
        for name, of in checks.items() if (vip := names.get(ip, "")) else ():
            if of.up is not None:
                up.setdefault((name,), []).append((vip, of.up))
            if of.seconds is not None:
                took.setdefault((name,), []).append((vip, of.seconds))
            for why, count in of.failures.items():
                failed.setdefault((name, why), []).append((vip, count))
    yield "dsr_check_up", up
    yield "dsr_check_duration_seconds", took
    yield "dsr_check_failures_total", failed


def _reached(board: Board, names: Mapping[Ip, str]) -> Sheet:
    found: _Sheet = {}
    for pair, reach in board.probes.reaches.copy().items():
        good, vip = reach.state.value, names.get(pair.vip)
        if good is not None and vip:
            found.setdefault((pair.tunnel,), []).append((vip, good))
    return found
