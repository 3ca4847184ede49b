"""The product's rules for the benchmark's worlds, as ``nft -j -f -`` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.marked import Marked, Unwrapped
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.ruleset import Request, unguarded
from dsr_agent.guard.ruleset import ruleset as rules_for
from dsr_agent.guard.transaction import commands
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.table import FilterSet, Table

GROUP = LINK_GROUP


@dataclass(frozen=True)
class Wanted:
    """
    All there is to guard: a tunnel of *protocols* to *local* from *balancers* (addresses or prefixes), and *vips*.

    *own* are the host's addresses. Without *counters* the elements of sets count nothing. *direct*: IP is right behind
    the UDP header. With a *code* point there is no tunnel: packets with it are for the first VIP; *plain*: VIPs are
    sent to as they are.
    """

    protocols: Sequence[int]
    local: str
    balancers: Sequence[str]
    vips: Sequence[str]
    own: Sequence[str] = ()
    key: int | None = None
    counters: bool = True
    port: int | None = None
    direct: bool = False
    checksum: bool = False
    code: int | None = None
    plain: bool = False


def ruleset(wanted: Wanted) -> str:
    """The whole table."""
    senders, local = tuple(map(ip_network, wanted.balancers)), ip_address(wanted.local)
    entrances = tuple(
        Entrance("dsr0", local, n, senders, wanted.key, wanted.checksum, wanted.port, wanted.direct)
        for n in wanted.protocols
    )
    vips = tuple(GuardedVip(ip_address(vip)) for vip in wanted.vips) if entrances else ()
    own = frozenset(map(ip_address, wanted.own))
    table = rules_for(Request(entrances, vips, own, unwrapped=_unwrapped(wanted)))
    if not wanted.counters:
        table = _uncounted(table)
    return _written(table)


def rewriting(wanted: Wanted) -> str:
    """What marked packets need without a guard, too."""
    return _written(unguarded(_unwrapped(wanted)))


def _unwrapped(wanted: Wanted) -> Unwrapped:
    vips = tuple(map(ip_address, wanted.vips))
    if wanted.code is not None:
        at = (("dsr0", frozenset({ip_address(wanted.local)})),)
        return Unwrapped((Marked("dsr0", wanted.code, vips[0]),), at)
    return Unwrapped(plain=vips) if wanted.plain else Unwrapped()


def _written(table: Table) -> str:
    return f'{{"nftables":[{",".join(commands(table, None))}]}}'


def _uncounted(table: Table) -> Table:
    sets = {name: FilterSet(replace(found.shape, counted=False), found.elements) for name, found in table.sets.items()}
    return replace(table, sets=sets)
