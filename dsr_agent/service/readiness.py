"""Which VIPs are ready, and why others are not: what is not as the file says, what the self-test found. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dsr_agent.service.ledger import Probes
from dsr_agent.service.overview import Overview
from dsr_agent.service.status import Status, keys_of_tunnel
from dsr_agent.state.model import GUARD, THIS_HOST, AddressKey, Key, LinkKey, Vip


class Readiness:
    """One overview, and what the self-test has found. *status* works the overview out, where that is needed."""

    def __init__(self, overview: Overview, probes: Probes, status: Callable[[], Status]) -> None:
        self._overview = overview
        self._probes = probes
        self._status = status
        self._by_tunnel: dict[str, list[str]] = {}

    def everything(self) -> list[str]:
        """Why not all is well; nothing if it is."""
        undone = [f"{key}: {reason}" for key, reasons in self._overview.undone.items() for reason in reasons]
        where = self._overview.desired.key_of_ip
        fallen = [where[ip] for ip in self._probes.fallen.copy() if ip in where]
        return undone + [f"{key}: {reason}" for key in fallen for reason in self._probes.reasons(key.ip)]

    def of(self, key: AddressKey, vip: Vip) -> list[str]:
        """Why one VIP is not ready: it, its device, a tunnel or the guard is not in order, or nothing arrives."""
        why: list[str] = []
        if self._overview.undone:
            why = self._said((key, LinkKey(vip.device), THIS_HOST, GUARD))
            why += [line for tunnel in vip.tunnels for line in self._of_tunnel(tunnel)]
        if not why and key not in self._overview.observed.addresses:
            why = [f"{key}: it is missing"]
        return list(dict.fromkeys(why)) + [f"{key}: {reason}" for reason in self._probes.reasons(key.ip)]

    def _of_tunnel(self, name: str) -> list[str]:
        if name not in self._by_tunnel:
            self._by_tunnel[name] = self._said(keys_of_tunnel(name, self._status()))
        return self._by_tunnel[name]

    def _said(self, keys: Iterable[Key]) -> list[str]:
        undone = self._overview.undone
        return [f"{key}: {reason}" for key in keys for reason in undone.get(key, ())]
