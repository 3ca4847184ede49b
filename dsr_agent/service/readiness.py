"""
Why a VIP is not ready to be sent requests.

It is not as the file says, the self-test does not reach it, nobody listens, the application does not answer, or it is
drained. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dsr_agent.service.ledger import Probes
from dsr_agent.service.overview import Overview
from dsr_agent.service.status import Status, keys_of_tunnel
from dsr_agent.state.model import GUARD, THIS_HOST, AddressKey, LinkKey, Vip
from dsr_agent.truth.checks import ByVip
from dsr_agent.truth.drains import Drains
from dsr_agent.truth.listeners import Standings, services_of

DRAINED = "drained"


class Readiness:
    """
    One look at everything, asked VIP by VIP.

    *probes* are what the self-test found, *services* how the declared services stand, *checks* what applications
    answered, *drains* what is drained at *now*. What tunnels lack is worked out once, by *status*, and only if anything
    is lacking: there may be 10,000 VIPs.
    """

    def __init__(
        self,
        overview: Overview,
        *,
        probes: Probes,
        services: Standings,
        drains: Drains,
        now: float,
        status: Callable[[], Status],
        checks: ByVip,
    ) -> None:
        self._overview = overview
        self._probes = probes
        self._services = services
        self._drains = drains
        self._now = now
        self._status = status
        self._checks = checks
        self._tunnels: dict[str, tuple[str, ...]] = {}

    def everything(self) -> list[str]:
        """
        Why this host is not ready, whatever it is about.

        Single VIPs that are drained are meant to be, and say nothing against the others.
        """
        undone = self._overview.undone
        vips = self._overview.desired.vips
        drained = self._drains.of_host(self._now) or (vips and all(self._drains.of(key.ip, self._now) for key in vips))
        found = [DRAINED] if drained else []
        found += [f"{key}: {reason}" for key, reasons in undone.items() for reason in reasons]
        where = self._overview.desired.key_of_ip
        fallen = [where[ip] for ip in self._probes.fallen.copy() if ip in where]
        found += [f"{key}: {reason}" for key in fallen for reason in self._probes.reasons(key.ip)]
        found += [f"{each.vip}: {why}" for each, of in self._services.items() if (why := of.why_not)]
        asked = [where[ip] for ip in self._checks.copy() if ip in where]
        return found + [f"{key}: {why}" for key in asked for why in self._of_checks(key)]

    def of(self, key: AddressKey, vip: Vip) -> list[str]:
        """Why this VIP is not ready; empty if it is."""
        found = list(dict.fromkeys(self._lacking(key, vip)))
        if key not in self._overview.observed.addresses and not found:
            found = [f"{key}: it is missing"]
        drained = [DRAINED] if self._drains.of(key.ip, self._now) else []
        seen = (*self._probes.reasons(key.ip), *self._of_services(key, vip), *self._of_checks(key))
        return drained + found + [f"{key}: {why}" for why in seen]

    def _of_services(self, key: AddressKey, vip: Vip) -> Iterator[str]:
        for service in services_of(key, vip):
            if (standing := self._services.get(service)) and standing.why_not:
                yield standing.why_not

    def _of_checks(self, key: AddressKey) -> list[str]:
        return [why for name, of in self._checks.get(key.ip, {}).items() if (why := of.why_not(name))]

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
