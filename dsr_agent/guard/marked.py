"""
Requests that come without an outer header: the rules that give them their VIP back, and that count them. Pure.

A balancer that sends by DSCP writes a real server's own address over the VIP, and a code point that says which VIP it
was (Yahoo's and A10's L3DSR, NetScaler's TOS). The rules write the VIP back, and nothing else: the code point and the
ECN bits stay, checksums follow, every fragment is treated alike. One rule for each code point: nftables 1.1.3 compiles
a map from code points without mask and shift, and it never matches (facts B7).

The source is the client's own, so who sent the packet cannot be asked. What comes over ``lo`` is this host's own and
left alone, but for the self-test; and so is what comes by the link of a VRF, which was seen before or is its own, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dsr_agent.guard import inner
from dsr_agent.guard.expressions import (
    ACCEPT,
    ENCAPSULATIONS,
    NOT_OURS,
    Expression,
    concat,
    goto,
    jump,
    match,
    meta,
    packet,
    refuse,
    rule,
)
from dsr_agent.guard.headers import later_fragment
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.sets import ADDRESS, hashed, of_addresses
from dsr_agent.guard.vrfs import from_here
from dsr_agent.state.marks import PROBE_MARK
from dsr_agent.state.model import Ip
from dsr_agent.state.table import Chain, FilterSet

# Behind the guard's own chain: what is wrapped was let in or refused there.
PRIORITY = -309
CHAIN = "unwrapped"

_IP = {4: "ip", 6: "ip6"}
_CLIENTS = "self_test"
_AT = "at-"


@dataclass(frozen=True, slots=True)
class Marked:
    """Packets by *tunnel* with the code point *dscp* are requests for *vip*; only to *services*, if there are any."""

    tunnel: str
    dscp: int
    vip: Ip
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """
    All that comes without an outer header.

    *arrivals* are the addresses that each tunnel's marked packets are sent to. *plain* are VIPs that are sent to as
    they are (``l2``): those are only counted. *ports* are addresses and ports of UDP at which wrapped packets arrive:
    whatever their code point, they are not meant.
    """

    marked: tuple[Marked, ...] = ()
    arrivals: tuple[tuple[str, frozenset[Ip]], ...] = ()
    plain: tuple[Ip, ...] = ()
    ports: tuple[tuple[Ip, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.marked or self.plain)

    def versions(self) -> list[int]:
        """The versions of IP that are marked."""
        return [version for version in ADDRESS if any(item.vip.version == version for item in self.marked)]


def arrivals_of(tunnel: str, version: int) -> str:
    """The name of the set of addresses that *tunnel*'s packets are sent to."""
    return f"{_AT}{tunnel.replace('*', '/any')}/{version}"


def is_arrivals(name: str) -> bool:
    """Whether a set of that *name* holds such addresses."""
    return name.startswith(_AT)


def sets(of: Unwrapped, *, guarded: bool) -> Iterator[tuple[str, FilterSet]]:
    """The sets that `chains` ask. What comes to VIPs is counted only where there is a guard."""
    for version in of.versions():
        for name, ips in of.arrivals:
            yield arrivals_of(name, version), of_addresses(version, ips)
        if not guarded:
            continue
        marked = [item for item in of.marked if item.vip.version == version]
        yield f"marked{version}", of_addresses(version, (item.vip for item in marked), counted=True)
        if any(item.services for item in marked):
            asked = {inner.service(item.vip, service) for item in marked for service in item.services}
            served = (item.vip for item in marked if item.services)
            yield f"marked_services{version}", hashed((ADDRESS[version], "inet_proto", "inet_service"), asked)
            yield f"marked_served{version}", of_addresses(version, served)
    if guarded:
        for version in ADDRESS:
            if any(ip.version == version for ip in of.plain):
                yield f"plain{version}", of_addresses(version, of.plain, counted=True)


def chains(of: Unwrapped, *, guarded: bool, vrfs: bool = False) -> Iterator[tuple[str, Chain]]:
    """The way of a packet that is not wrapped; *guarded*: and whether a client can have sent it."""
    if not of or not (of.marked or guarded):
        return
    for version in of.versions():
        marked = [item for item in of.marked if item.vip.version == version]
        then = goto(_checked(version)) if guarded else ACCEPT
        yield _rewriting(version), Chain(tuple(_rewrite(item, then) for item in marked))
        if guarded:
            yield _checked(version), Chain(tuple(_checks(version, marked, vrfs=vrfs)))
    yield CHAIN, Chain(tuple(_unwrapped(of, guarded=guarded, vrfs=vrfs)), "prerouting", PRIORITY)


def forwarding(of: Unwrapped) -> Iterator[str]:
    """A marked packet whose VIP is not here (yet) goes nowhere else: the way back to the balancer would be a loop."""
    for item in dict.fromkeys((entry.dscp, entry.vip) for entry in of.marked):
        dscp, vip = item
        yield rule(_marked(vip.version, dscp), match(_to(vip.version), str(vip)), *refuse(RefusalReason.FORWARD))


def _unwrapped(of: Unwrapped, *, guarded: bool, vrfs: bool) -> Iterator[str]:
    for here in from_here(vrfs=vrfs):
        yield rule(here, match(meta("mark"), PROBE_MARK, "!="), ACCEPT)
    for local, port in of.ports if of.marked else ():
        yield rule(match(_to(local.version), str(local)), match(packet("udp", "dport"), port), ACCEPT)
    for version in of.versions():
        code = packet(_IP[version], "dscp")
        wrapped = match(meta("l4proto"), {"set": ENCAPSULATIONS}, "!=")
        yield rule(match(code, 0, "!="), wrapped, jump(_rewriting(version)))
    if guarded:
        for version in ADDRESS:
            if any(ip.version == version for ip in of.plain):
                yield rule(NOT_OURS, match(_to(version), f"@plain{version}"), ACCEPT)


def _rewrite(item: Marked, then: Expression) -> str:
    version = item.vip.version
    arrives = match(_to(version), f"@{arrivals_of(item.tunnel, version)}")
    back = {"mangle": {"key": _to(version), "value": str(item.vip)}}
    return rule(_marked(version, item.dscp), arrives, back, then)


def _checks(version: int, marked: Iterable[Marked], *, vrfs: bool) -> Iterator[str]:
    """What is asked of a request that came out of a tunnel, too; the VIP is in its header again."""
    source = packet(_IP[version], "saddr")
    itself = match(source, f"@{_CLIENTS}{version}")
    for here in from_here(vrfs=vrfs):
        yield rule(match(meta("mark"), PROBE_MARK), here, itself, ACCEPT)
    yield rule(match(source, f"@own{version}"), *refuse(RefusalReason.INNER_SOURCE))
    yield from (rule(foreign, *refuse(RefusalReason.INNER_SOURCE)) for foreign in inner.no_clients(version))
    if any(item.services for item in marked):
        asked = match(concat(_to(version), meta("l4proto"), packet("th", "dport")), f"@marked_services{version}")
        counted = match(_to(version), f"@marked{version}")
        yield rule(asked, counted, ACCEPT)
        yield rule(match(meta("l4proto"), inner.ICMP[version]), counted, ACCEPT)
        yield rule(later_fragment(version), counted, ACCEPT)
        yield rule(match(_to(version), f"@marked_served{version}"), *refuse(RefusalReason.SERVICE))
    yield rule(match(_to(version), f"@marked{version}"), ACCEPT)


def _marked(version: int, dscp: int) -> Expression:
    return match(packet(_IP[version], "dscp"), dscp)


def _to(version: int) -> Expression:
    return packet(_IP[version], "daddr")


def _rewriting(version: int) -> str:
    return f"marked{version}"


def _checked(version: int) -> str:
    return f"marked_checks{version}"
