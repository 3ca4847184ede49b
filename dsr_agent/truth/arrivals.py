"""What still arrives for VIPs that are drained, by the guard's counters, and since when nothing does. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from dsr_agent.guard.counters import Totals
from dsr_agent.guard.inner import COUNTING, address_of
from dsr_agent.state.count import Counted, Place
from dsr_agent.state.model import Ip


class Arrival(NamedTuple):
    """*packets* have come since *since*, the last of them before *last_at*; None if none has."""

    packets: int
    since: float
    last_at: float | None = None


class Arrivals:
    """Adds up what has arrived for each drained VIP. Pure."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._base: dict[Ip, int] = {}
        self._found: dict[Ip, Arrival] = {}

    def look(self, drained: Iterable[Ip], counted: Counted, now: float) -> Mapping[Ip, Arrival]:
        """After the counters were read as *counted* at *now*."""
        ips = {str(ip): ip for ip in drained}

        def asked(place: Place) -> bool:
            return place[0] in COUNTING and address_of(place[1]) in ips

        self._totals.keep(asked)
        totals = _received(self._totals.look({place: count for place, count in counted.items() if asked(place)}))
        found: dict[Ip, Arrival] = {}
        for ip in ips.values():
            packets = totals.get(ip, 0)
            before = self._found.get(ip)
            if before is None:
                self._base[ip] = packets
                found[ip] = Arrival(0, now)
            else:
                more = packets - self._base[ip]
                found[ip] = Arrival(more, before.since, now if more > before.packets else before.last_at)
        self._found = found
        return found


def _received(counted: Counted) -> Mapping[Ip, int]:
    """Packets by VIP; one that is not for all tunnels or services is counted in several places."""
    found: dict[Ip, int] = {}
    for (_, element), count in counted.items():
        ip = ip_address(address_of(element))
        found[ip] = found.get(ip, 0) + count.packets
    return found
