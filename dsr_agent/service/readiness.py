"""
Why a VIP is not ready to be sent requests.

It is not as the file says, the self-test does not reach it, nobody listens, or it is drained or held. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dsr_agent.service.ledger import Probes
from dsr_agent.service.overview import Overview
from dsr_agent.service.status import Status, keys_of_tunnel
from dsr_agent.state.model import GUARD, THIS_HOST, AddressKey, LinkKey, Vip
from dsr_agent.truth.listeners import Standings, services_of
from dsr_agent.truth.spans import Spans

DRAINED = "drained"
HELD = "held"


class Readiness:
    """
    One look at everything, asked VIP by VIP.

    *probes* are what the self-test found, *services* how the declared services stand, *drains* what is drained at
    *now*. What tunnels lack is worked out once, by *status*, and only if anything is lacking: there may be 10,000 VIPs.
    """

    def __init__(
        self,
        overview: Overview,
        *,
        probes: Probes,
        services: Standings,
        drains: Spans,
        now: float,
        status: Callable[[], Status],
    ) -> None:
        self._overview = overview
        self._probes = probes
        self._services = services
        self._drains = drains
        self._now = now
        self._status = status
        self._tunnels: dict[str, tuple[str, ...]] = {}

    def everything(self) -> list[str]:
        """
        Why this host is not ready, whatever it is about.

        Single VIPs that are drained or held are meant to be, and say nothing against the others.
        """
        desired = self._overview.desired
        found = [f"{key}: {reason}" for key, reasons in self._overview.undone.items() for reason in reasons]
        where = {ip: key for ip, key in desired.key_of_ip.items() if ip not in desired.held}
        fallen = [where[ip] for ip in self._probes.fallen.copy() if ip in where]
        found += [f"{key}: {reason}" for key in fallen for reason in self._probes.reasons(key.ip)]
        services = [(each.vip, of.why_not) for each, of in self._services.items() if of.why_not]
        return self._asked_for() + found + [f"{key}: {why}" for key, why in services if key.ip not in desired.held]

    def _asked_for(self) -> list[str]:
        """Whether somebody wants no VIP of this host to be sent requests."""
        vips, held = self._overview.desired.vips, self._overview.desired.held
        if self._drains.of_host(self._now):
            return [DRAINED]
        if vips and all(key.ip in held or self._drains.of(key.ip, self._now) for key in vips):
            return [HELD] if len(held) == len(vips) else [DRAINED]
        return []

    def of(self, key: AddressKey, vip: Vip) -> list[str]:
        """Why this VIP is not ready; empty if it is."""
        found = list(dict.fromkeys(self._lacking(key, vip)))
        held = [HELD] if key.ip in self._overview.desired.held else []
        if not held and key not in self._overview.observed.addresses and not found:
            found = [f"{key}: it is missing"]
        drained = [DRAINED] if self._drains.of(key.ip, self._now) else []
        tested = self._probes.reasons(key.ip)
        return held + drained + found + [f"{key}: {why}" for why in (*tested, *self._of_services(key, vip))]

    def _of_services(self, key: AddressKey, vip: Vip) -> Iterator[str]:
        for service in services_of(key, vip):
            if (standing := self._services.get(service)) and standing.why_not:
                yield standing.why_not

    def _lacking(self, key: AddressKey, vip: Vip) -> Iterator[str]:
        """What is not as the file says, of all that this VIP needs."""
        undone = self._overview.undone
        if not undone:
            return
        for part in (key, LinkKey(vip.device), THIS_HOST, GUARD):
            yield from (f"{part}: {reason}" for reason in undone.get(part, ()))
        for tunnel in vip.tunnels:
            if tunnel not in self._tunnels:
                parts = keys_of_tunnel(tunnel, self._status())
                found = [f"{part}: {reason}" for part in parts for reason in undone.get(part, ())]
                self._tunnels[tunnel] = tuple(found)
            yield from self._tunnels[tunnel]
