"""
Why a VIP is not ready to be sent requests.

It is not as the file says, the self-test does not reach it, nobody listens, the application does not answer, or it is
drained or held. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from dsr_agent.service.ledger import Probes
from dsr_agent.service.overview import Overview
from dsr_agent.service.status import Status, keys_of_tunnel
from dsr_agent.service.subjects import SubjectSort, sort_of
from dsr_agent.state.model import GUARD, THIS_HOST, AddressKey, Key, LinkKey, Vip
from dsr_agent.truth.checks import ByVip
from dsr_agent.truth.listeners import Standings, services_of
from dsr_agent.truth.spans import Spans


class About(StrEnum):
    """What a reason is about: few words, which metrics carry as a label."""

    STARTING = "starting"
    STUCK = "stuck"
    HELD = "held"
    DRAINED = "drained"
    VIP = "vip"
    DEVICE = "device"
    TUNNEL = "tunnel"
    GUARD = "guard"
    HOST = "host"
    SELF_TEST = "self_test"
    SERVICE = "service"
    CHECK = "check"


class NotReady(NamedTuple):
    """Why something is not ready, for machines and for people."""

    about: About
    text: str


DRAINED = NotReady(About.DRAINED, "drained")
HELD = NotReady(About.HELD, "held")

# A VIP needs all that belongs to its tunnels: link, address, sysctls.
_ABOUT = {
    SubjectSort.VIP: About.VIP,
    SubjectSort.DEVICE: About.DEVICE,
    SubjectSort.GUARD: About.GUARD,
    SubjectSort.HOST: About.HOST,
}


class Readiness:
    """
    One look at everything, asked VIP by VIP.

    *probes* are what the self-test found, *services* how the declared services stand, *checks* what applications
    answered, *drains* what is drained at *now*. What VIPs share is worked out once, with *status*, and only if anything
    is lacking: there may be 10,000 VIPs.
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
        checks: ByVip,
    ) -> None:
        self._overview = overview
        self._probes = probes
        self._services = services
        self._drains = drains
        self._now = now
        self._status = status
        self._checks = checks
        self._shared: dict[tuple[str, tuple[str, ...]], list[NotReady]] = {}

    def everything(self) -> list[NotReady]:
        """
        Why this host is not ready, whatever it is about.

        Single VIPs that are drained or held are meant to be, and say nothing against the others.
        """
        desired = self._overview.desired
        found = [reason for key in self._overview.undone for reason in self._undone(key)]
        fallen = [desired.key_of_ip[ip] for ip in self._probes.fallen.copy() if ip in desired.key_of_ip]
        found += [reason for key in fallen if key.ip not in desired.held for reason in self._of_self_test(key)]
        services = [(each.vip, of.why_not) for each, of in self._services.items() if of.why_not]
        found += [NotReady(About.SERVICE, f"{key}: {why}") for key, why in services if key.ip not in desired.held]
        asked = [desired.key_of_ip[ip] for ip in self._checks.copy() if ip in desired.key_of_ip]
        found += [reason for key in asked if key.ip not in desired.held for reason in self._of_checks(key)]
        return self._asked_for() + found

    def _asked_for(self) -> list[NotReady]:
        """Whether somebody wants no VIP of this host to be sent requests."""
        vips, held = self._overview.desired.vips, self._overview.desired.held
        if self._drains.of_host(self._now):
            return [DRAINED]
        if vips and all(key.ip in held or self._drains.of(key.ip, self._now) for key in vips):
            return [HELD] if len(held) == len(vips) else [DRAINED]
        return []

    def of(self, key: AddressKey, vip: Vip) -> list[NotReady]:
        """Why this VIP is not ready; empty if it is."""
        found = list(dict.fromkeys(self._lacking(key, vip))) if self._overview.undone else []
        held = [HELD] if key.ip in self._overview.desired.held else []
        if not held and key not in self._overview.observed.addresses and not found:
            found = [NotReady(About.VIP, f"{key}: it is missing")]
        drained = [DRAINED] if self._drains and self._drains.of(key.ip, self._now) else []
        seen = [*self._of_self_test(key)] if self._probes.fallen else []
        seen += self._of_services(key, vip) if vip.services else ()
        seen += self._of_checks(key) if self._checks else ()
        return [*held, *drained, *found, *seen]

    def _of_self_test(self, key: AddressKey) -> Iterator[NotReady]:
        return (NotReady(About.SELF_TEST, f"{key}: {why}") for why in self._probes.reasons(key.ip))

    def _of_services(self, key: AddressKey, vip: Vip) -> Iterator[NotReady]:
        for service in services_of(key, vip):
            if (standing := self._services.get(service)) and not standing.up:
                yield NotReady(About.SERVICE, f"{key}: {standing.why_not}")

    def _of_checks(self, key: AddressKey) -> Iterator[NotReady]:
        for name, standing in self._checks.get(key.ip, {}).items():
            if why := standing.why_not(name):
                yield NotReady(About.CHECK, f"{key}: {why}")

    def _undone(self, key: Key, about: About | None = None) -> Iterator[NotReady]:
        """What is not as the file says about one thing."""
        if texts := self._overview.undone.get(key):
            about = about or _ABOUT.get(sort_of(key, self._overview.desired), About.TUNNEL)
            yield from (NotReady(about, f"{key}: {text}") for text in texts)

    def _lacking(self, key: AddressKey, vip: Vip) -> Iterator[NotReady]:
        """What is not as the file says, of all that this VIP needs."""
        yield from self._undone(key)
        needs = vip.device, vip.tunnels
        if needs not in self._shared:
            found = [each for part in (LinkKey(vip.device), THIS_HOST, GUARD) for each in self._undone(part)]
            for tunnel in vip.tunnels:
                parts = keys_of_tunnel(tunnel, self._status())
                found += [each for part in parts for each in self._undone(part, About.TUNNEL)]
            self._shared[needs] = found
        yield from self._shared[needs]
