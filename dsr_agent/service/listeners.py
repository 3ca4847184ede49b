"""
Keeps an eye on who listens for what the VIPs declare: on a regular beat, and soon after something was put right.

Aside from the loop, which never waits for it. While nothing is declared, nothing is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dsr_agent.kernel.sockets import Socket, SocketTable
from dsr_agent.kernel.sysctls import OUT_OF_VRFS
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.service.board import Board
from dsr_agent.service.journal import Kind, about, carrying
from dsr_agent.service.narrator import Line
from dsr_agent.service.overview import Overview
from dsr_agent.state.model import Desired, Observed, SysctlKey
from dsr_agent.truth.listeners import Service, ServiceFinding, Standings, after, declared, find

log = logging.getLogger("dsr_agent")

# A repair seldom comes alone.
_SETTLE = 0.1
# More of one kind than this in one look is told as a number.
_ONE_BY_ONE = 5


@dataclass(frozen=True, slots=True)
class Beat:
    """What ``[listeners]`` says: seconds between looks, and how many of them it takes to believe a change."""

    interval: float = 1.0
    rise: int = 2
    fall: int = 2


class Listeners:
    """Keeps `Board.services` true."""

    def __init__(self, board: Board, beat: Beat) -> None:
        self.beat = beat
        self.soon = asyncio.Event()
        """Set when there is reason to look before the next beat."""
        self._board = board
        self._table = SocketTable()
        self._counted_at = float("-inf")
        self._desired: Desired | None = None
        self._services: tuple[Service, ...] = ()
        self._seen: object = None
        self._trouble = ""

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self.soon.clear()
            await self.look()
            try:
                async with asyncio.timeout(self.beat.interval if self._services else None):
                    await self.soon.wait()
                await asyncio.sleep(_SETTLE)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """One look, told where something has changed."""
        overview = self._board.overview
        if overview.desired is not self._desired:
            self._desired, self._seen = overview.desired, None
            self._services = declared(overview.desired.vips)
        sockets: list[Socket] = []
        if self._services:
            try:
                sockets = await asyncio.to_thread(_read, self._table, self._services)
            except OSError as error:
                self._unknown(f"it is not known who listens, because the kernel does not tell: {error.strerror}")
                return
        self._unknown("")
        self._take(overview, sockets)

    def _take(self, overview: Overview, sockets: list[Socket]) -> None:
        """Look at what was read; a look that is not due by the beat shows new things, and brings no old one down."""
        links = _links(overview.desired, overview.observed) if any(each.device for each in sockets) else {}
        everywhere = _out_of_vrfs(overview.observed)
        seen = (frozenset(sockets), links, everywhere)
        before = self._board.services
        if seen == self._seen and all(standing.settled for standing in before.values()):
            return  # with 10,000 VIPs, all that follows takes longer than the kernel's answer
        self._seen = seen
        found = find(self._services, overview.desired.vips, sockets, links, everywhere)
        now = time.monotonic()
        if now - self._counted_at >= self.beat.interval * 0.9:
            self._counted_at = now
        else:
            found = {
                service: finding
                for service, finding in found.items()
                if service not in before or before[service].up == finding.listening
            }
        standings = {service: before[service] for service in self._services if service in before} | after(
            before, found, self.beat.rise, self.beat.fall
        )
        self._board.services = standings
        for line in changes(before, standings, overview.desired):
            log.log(line.level, line.text, extra=carrying(line.kind, line.fields))

    def _unknown(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble, extra=carrying(Kind.WARNED))
        if trouble:
            self._board.services, self._seen = {}, None
        self._trouble = self._board.services_unknown = trouble


def _links(desired: Desired, observed: Observed) -> Mapping[str, str]:
    return {item.tunnel.name: item.link.name for item in resolve(desired, observed).carried}


def _out_of_vrfs(observed: Observed) -> frozenset[str]:
    """The transports whose sockets get what arrives in VRFs, although they are bound to no device."""
    return frozenset(name for name, path in OUT_OF_VRFS.items() if observed.sysctls.get(SysctlKey(path)))


def _read(table: SocketTable, services: tuple[Service, ...]) -> list[Socket]:
    """One dump for each protocol and version of IP that there is a service of. Raises `OSError`."""
    ipv4 = any(service.vip.ip.version == 4 for service in services)
    transports = sorted({service.transport for service in services})
    return table.read(transports, {service.port for service in services}, ipv4=ipv4)


def look_once(desired: Desired, observed: Observed) -> dict[Service, ServiceFinding]:
    """Who listens now; nothing where the kernel does not tell."""
    services = declared(desired.vips)
    if not services:
        return {}
    with contextlib.closing(SocketTable()) as table:
        try:
            sockets = _read(table, services)
        except OSError:
            return {}
    return find(services, desired.vips, sockets, _links(desired, observed), _out_of_vrfs(observed))


def changes(before: Standings, now: Standings, desired: Desired) -> Iterator[Line]:
    """What is to be said about the step from *before* to *now*; of what was fine from the start, nothing."""
    lost: list[tuple[Service, ServiceFinding]] = []
    back: list[tuple[Service, ServiceFinding]] = []
    doubtful: list[tuple[Service, ServiceFinding]] = []
    for service, standing in now.items():
        known = before.get(service)
        if known is not None and known.up != standing.up:
            (back if standing.up else lost).append((service, standing.finding))
        elif known is None and not standing.up:
            lost.append((service, standing.finding))
        doubted = known is not None and known.up and known.finding.doubtful
        if standing.up and standing.finding.doubtful and not doubted:
            doubtful.append((service, standing.finding))
    yield from _told(logging.ERROR, lost, "", Kind.SERVICE_DOWN, desired)
    yield from _told(logging.INFO, back, "up again, ", Kind.SERVICE_UP, desired)
    yield from _told(logging.WARNING, doubtful, "", Kind.WARNED, desired)


def _told(
    level: int, found: list[tuple[Service, ServiceFinding]], words: str, kind: Kind, desired: Desired
) -> Iterator[Line]:
    for service, finding in found[:_ONE_BY_ONE]:
        yield Line(level, f"VIP {service.vip.ip}: {service.name}: {words}{finding}", kind, about(service.vip, desired))
    if more := found[_ONE_BY_ONE:]:
        fields = tuple(dict.fromkeys(field for service, _ in more[:900] for field in about(service.vip, desired)))
        text = f"and {len(more)} more services of VIPs, the first {more[0][0].name} of {more[0][0].vip.ip}: "
        yield Line(level, f"{text}{words}{more[0][1]}; see dsr-agent status", kind, fields)
