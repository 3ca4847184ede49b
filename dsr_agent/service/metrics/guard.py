"""The samples of the guard: who got in, to which VIP, and what was refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from dsr_agent.guard.counters import Count, Counted
from dsr_agent.guard.inner import COUNTING, address_of
from dsr_agent.guard.outer import counted_in
from dsr_agent.guard.reasons import Reason
from dsr_agent.guard.selftest import COUNTED
from dsr_agent.guard.sets import element
from dsr_agent.reconcile.resolve import stand_in_name
from dsr_agent.state.marks import FALLBACK_DEVICES
from dsr_agent.state.model import Desired, Observed

Rows: TypeAlias = Mapping[tuple[str, ...], Count]

_NOTHING = Count()


def accepted(desired: Desired, counted: Counted) -> Rows:
    """By tunnel and load balancer, as the file writes them."""
    found: dict[tuple[str, ...], Count] = {}
    for name, tunnel in desired.tunnels.items():
        if not tunnel.load_balancers:
            found[name, "any"] = counted.get((counted_in(name), ""), _NOTHING)
        for network in tunnel.load_balancers:
            place = counted_in(name, network.prefixlen), element(network.network_address)
            single = network.prefixlen == network.max_prefixlen
            label = str(network.network_address) if single else str(network)
            found[name, label] = counted.get(place, _NOTHING)
    return found


def refused(counted: Counted) -> Rows:
    """By reason."""
    return {(str(reason),): counted.get((reason, ""), _NOTHING) for reason in Reason}


def received(desired: Desired, counted: Counted) -> Rows:
    """By VIP; one that is not for all tunnels or services is counted in sets of its own, for each link."""
    found: dict[tuple[str, ...], Count] = {(str(key.ip),): _NOTHING for key in desired.vips}
    for (name, text), count in counted.items():
        vip = (address_of(text),) if name in COUNTING else ()
        if vip in found:
            found[vip] = found[vip].plus(count)
    return found


def self_test(link: str, counted: Counted) -> Count:
    """What came out of *link* of the self-test, the link that stands in for it included."""
    found = [counted.get((COUNTED, element(name)), _NOTHING) for name in (link, stand_in_name(link))]
    return found[0].plus(found[1])


def fallback_devices(observed: Observed) -> Iterator[tuple[tuple[str, ...], float]]:
    """Those that are there, and whether they are up."""
    for name in sorted(FALLBACK_DEVICES & observed.links.keys()):
        yield (name,), observed.links[name].up
