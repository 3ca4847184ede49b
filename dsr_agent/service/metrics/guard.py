"""The samples of the guard: who got in, to which VIP, and what was refused. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from dsr_agent.guard.inner import COUNTING, address_of
from dsr_agent.guard.outer import counted_in
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.selftest import COUNTED
from dsr_agent.guard.sets import element
from dsr_agent.state.count import Count, Counted, Place
from dsr_agent.state.marks import FALLBACK_DEVICES, stand_in_name
from dsr_agent.state.model import Desired, Observed

Rows: TypeAlias = Mapping[tuple[str, ...], Count]

_NOTHING = Count()


def accepted(desired: Desired, counted: Counted) -> Rows:
    """By tunnel and load balancer, as the file writes them."""
    return {labels: counted.get(place, _NOTHING) for labels, place in _senders(desired)}


def _senders(desired: Desired) -> Iterator[tuple[tuple[str, str], Place]]:
    """Tunnel and load balancer, and where they are counted."""
    for name, tunnel in desired.linked.items():
        if not tunnel.load_balancers:
            yield (name, "any"), (counted_in(name), "")
        for network in tunnel.load_balancers:
            single = network.prefixlen == network.max_prefixlen
            label = str(network.network_address) if single else str(network)
            counting = counted_in(name, network.prefixlen, network.version)
            yield (name, label), (counting, element(network.network_address))


def refused(counted: Counted) -> Rows:
    """By reason."""
    return {(str(reason),): counted.get((reason, ""), _NOTHING) for reason in RefusalReason}


def received(vips: Iterable[str], counted: Counted) -> Mapping[str, Count]:
    """By VIP; one that is not for all tunnels or services is counted in sets of its own, for each link."""
    found = dict.fromkeys(vips, _NOTHING)
    for (name, text), count in counted.items():
        if name in COUNTING and (before := found.get(vip := address_of(text))) is not None:
            found[vip] = before.plus(count) if before is not _NOTHING else count
    return found


def declared(desired: Desired, links: Iterable[str]) -> Callable[[Place], bool]:
    """Whether a place counts anything that the file declares; *links* carry its tunnels."""
    senders = {place for _, place in _senders(desired)}
    vips = {str(key.ip) for key in desired.vips}
    tested = {(COUNTED, element(name)) for link in links for name in (link, stand_in_name(link))}
    places = senders | tested | {(str(reason), "") for reason in RefusalReason}

    def of(place: Place) -> bool:
        name, text = place
        return address_of(text) in vips if name in COUNTING else place in places

    return of


def self_test(link: str, counted: Counted) -> Count:
    """What came out of *link* of the self-test, the link that stands in for it included."""
    found = [counted.get((COUNTED, element(name)), _NOTHING) for name in (link, stand_in_name(link))]
    return found[0].plus(found[1])


def fallback_devices(observed: Observed) -> Iterator[tuple[tuple[str, ...], float]]:
    """Those that are there, and whether they are up."""
    for name in sorted(FALLBACK_DEVICES & observed.links.keys()):
        yield (name,), observed.links[name].up
