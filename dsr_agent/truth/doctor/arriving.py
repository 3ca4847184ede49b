"""What load balancers really send, held against what the file says they do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dsr_agent.guard.reasons import Reason
from dsr_agent.kernel.headers import GRE, UDP, Outer
from dsr_agent.state.model import Ip, Tunnel
from dsr_agent.truth.doctor.causes import Cause, Finding, Result, Stage, Told, ok, unknown
from dsr_agent.truth.doctor.evidence import Evidence, is_in
from dsr_agent.truth.probe import Way
from dsr_agent.tunnels import carrier, protocols_of

NAMES = {4: "IPIP", UDP: "GUE or FOU", 41: "6in4", 47: "GRE"}
_ENCAPSULATION = {4: '"ipip"', 47: '"gre"'}
_SHOWN = 3


def arriving(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether something comes in for the tunnel, and whether it is what it takes."""
    way = evidence.ways.get(tunnel.name)
    unread = tunnel.port is not None or tunnel.version == 6  # the capture reads IP in IP and GRE, over IPv4
    if evidence.captured is None or way is None or unread:
        yield _by_the_guard(tunnel, evidence)
        return
    wrong = list(_wrong(way, evidence))
    yield from wrong
    good = fitting(way, evidence)
    if good:
        yield ok(Stage.ARRIVING, _words(good, evidence), *evidence_of(tunnel, evidence), tunnel=tunnel.name)
        yield from _silent(tunnel, good, evidence)
    elif not any(finding.result is Result.FAULT for finding in wrong):
        yield _nothing(way, evidence)


def fitting(way: Way, evidence: Evidence) -> list[Outer]:
    """What came in from a declared balancer in the form that the tunnel takes; its later fragments left away."""
    return [packet for packet in evidence.outer if not packet.later and fits(packet, way)]


def fits(packet: Outer, way: Way) -> bool:
    """Whether the tunnel takes it, and the guard lets it in."""
    return _of(packet, way) and packet.destination == _local(way) and not _misfit(packet, way)


def _of(packet: Outer, way: Way) -> bool:
    senders = way.tunnel.load_balancers
    return not senders or is_in(packet.source, senders)


def _local(way: Way) -> Ip | None:
    return way.link.outer.local if way.link.outer else None


class _Misfit(NamedTuple):
    cause: Cause
    saw: str
    remedy: str


def _misfit(packet: Outer, way: Way) -> _Misfit | None:
    """In what a balancer's packet differs from what the tunnel takes; its destination is not asked here."""
    tunnel, here = way.tunnel, f"in [[tunnel]] {way.tunnel.name}"
    if packet.protocol not in protocols_of(tunnel):
        name = NAMES.get(packet.protocol, f"protocol {packet.protocol}")
        saw = f"{packet.source} sends {name}; the file says {tunnel.encapsulation}"
        if packet.protocol in _ENCAPSULATION:
            remedy = f"write encapsulation = {_ENCAPSULATION[packet.protocol]} {here}, or correct the load balancer"
        elif packet.protocol == UDP:
            remedy = f"have the load balancer send {tunnel.encapsulation}"
        else:
            remedy = "have the load balancer send GRE for IPv6 VIPs"
        return _Misfit(Cause.BALANCER_SENDS_OTHER, saw, remedy)
    if packet.protocol != GRE or packet.later:
        return None
    if packet.key != tunnel.key:
        sent = "without a key" if packet.key is None else f"with key {packet.key}"
        declared = "declares no key" if tunnel.key is None else f"declares key {tunnel.key}"
        remedy = f"remove the key {here}" if packet.key is None else f"write key = {packet.key} {here}"
        return _Misfit(Cause.BALANCER_SENDS_KEY, f"{packet.source} sends GRE {sent}; the file {declared}", remedy)
    if packet.checksum != tunnel.checksum:
        sent, declared = ("with", "none") if packet.checksum else ("without", "one")
        return _Misfit(
            Cause.BALANCER_SENDS_CHECKSUM,
            f"{packet.source} sends GRE {sent} a checksum; the file declares {declared}",
            f"write checksum = {str(packet.checksum).lower()} {here}",
        )
    return None


def _wrong(way: Way, evidence: Evidence) -> Iterator[Finding]:
    """What comes in and is taken by no tunnel of the file, once for each way of being wrong."""
    told = Told(Stage.ARRIVING, way.tunnel.name)
    seen: dict[_Misfit, int] = {}
    strangers: dict[str, int] = {}
    in_udp = [packet for packet in evidence.in_udp if way.tunnel.name in _tunnels(packet, evidence)]
    for packet in (*evidence.outer, *in_udp):
        if packet.later or any(fits(packet, other) for other in evidence.ways.values()):
            continue
        if not evidence.meant_for(packet, way.tunnel):
            continue
        if _of(packet, way):
            if misfit := _elsewhere(packet, way) or _misfit(packet, way):
                seen[misfit] = seen.get(misfit, 0) + 1
        elif packet.destination == _local(way) and packet.protocol in protocols_of(way.tunnel):
            if not any(_of(packet, other) for other in evidence.ways.values()):
                strangers[str(packet.source)] = strangers.get(str(packet.source), 0) + 1
    refused = _refused(evidence)
    for misfit, count in seen.items():
        counted = (_packets(count, evidence), *refused, *_errors(way, evidence))
        yield told.fault(misfit.cause, misfit.saw, misfit.remedy, *counted)
    if strangers:
        yield _strangers(way, strangers, evidence)


def _tunnels(packet: Outer, evidence: Evidence) -> tuple[str, ...]:
    """Those by which the VIP expects its requests that the packet is for."""
    assert packet.inner
    return evidence.desired.vips[evidence.desired.key_of_ip[packet.inner.destination]].tunnels


def _elsewhere(packet: Outer, way: Way) -> _Misfit | None:
    """A packet that would fit, to another address of this host."""
    local = _local(way)
    if packet.destination == local or _misfit(packet, way):
        return None
    return _Misfit(
        Cause.BALANCER_SENDS_ELSEWHERE,
        f"{packet.source} sends to {packet.destination}; the tunnel takes what comes to {local}",
        f'write local = "{packet.destination}" in [[tunnel]] {way.tunnel.name}, or correct the load balancer',
    )


def _strangers(way: Way, strangers: dict[str, int], evidence: Evidence) -> Finding:
    told = Told(Stage.ARRIVING, way.tunnel.name)
    who = _some(strangers)
    name = NAMES[carrier(way.tunnel).protocol(4)]
    saw = f"{who} send{'s' * (len(strangers) == 1)} {name} and is no declared load balancer"
    remedy = f'add "{next(iter(strangers))}" to load_balancers in [[tunnel]] {way.tunnel.name}, or find out who that is'
    counted = (_packets(sum(strangers.values()), evidence), *_refused(evidence))
    if fitting(way, evidence):
        return told.warning(Cause.GUARD_REFUSES_SOURCE, saw, remedy, *counted)
    return told.fault(Cause.GUARD_REFUSES_SOURCE, saw, remedy, *counted)


# --- nothing, or not everybody ----------------------------------------------------------------------------------------


def _nothing(way: Way, evidence: Evidence) -> Finding:
    """Nobody sends: no traffic, or something before this host keeps it back; the two look alike from here."""
    told, tunnel = Told(Stage.ARRIVING, way.tunnel.name), way.tunnel
    assert evidence.captured is not None
    name, protocol = NAMES[carrier(tunnel).protocol(4)], carrier(tunnel).protocol(4)
    if not evidence.captured.complete:
        return unknown(Stage.ARRIVING, "there was more traffic than could be looked at", tunnel.name)
    saw = f"no {name} from any load balancer in {evidence.seconds:.0f} s"
    talking = {str(packet.source): 1 for packet in evidence.captured.arrived if not packet.wrapped and _of(packet, way)}
    if talking and tunnel.load_balancers:
        saw += f", though {_some(talking)} reach{'es' * (len(talking) == 1)} this host otherwise"
    card = evidence.card_of(_local(way)) or "any"
    remedy = (
        f"let protocol {protocol} pass between balancer and server (security groups, access lists), "
        f"and see whether it comes: tcpdump -ni {card} ip proto {protocol}"
    )
    return told.warning(Cause.NOTHING_ARRIVES, saw, remedy, *evidence_of(tunnel, evidence), *_refused(evidence))


def _silent(tunnel: Tunnel, good: Iterable[Outer], evidence: Evidence) -> Iterator[Finding]:
    """Declared balancers from which nothing ever came, while others send."""
    sending = {packet.source for packet in good}
    silent = {}
    for network in tunnel.load_balancers:
        if not any(source in network for source in sending) and not evidence.ever(tunnel.name, network):
            silent[str(network).removesuffix("/32")] = 1
    if silent and evidence.captured and evidence.captured.complete:
        ever = f"in {evidence.seconds:.0f} s" if evidence.after.guard is None else "since the guard was made"
        yield Told(Stage.ARRIVING, tunnel.name).warning(
            Cause.BALANCER_SILENT,
            f"nothing came from {_some(silent)} {ever}",
            "see whether that is a standby; if not, look at its pool and at what is between",
        )


def _by_the_guard(tunnel: Tunnel, evidence: Evidence) -> Finding:
    """Where packets cannot be seen, the guard's counters may tell."""
    if lately := sum(evidence.lately(tunnel.name, network) for network in tunnel.load_balancers):
        saw = f"the guard has let in {lately} packets in {evidence.seconds:.0f} s"
        return ok(Stage.ARRIVING, saw, *evidence_of(tunnel, evidence), tunnel=tunnel.name)
    return unknown(Stage.ARRIVING, evidence.uncaptured or "the tunnel has no local address yet", tunnel.name)


# --- words ------------------------------------------------------------------------------------------------------------


def evidence_of(tunnel: Tunnel, evidence: Evidence) -> list[str]:
    """What the guard has ever let in from the tunnel's balancers."""
    found = []
    for network in tunnel.load_balancers:
        count = evidence.ever(tunnel.name, network)
        if count is not None:
            found.append(f"the guard has let in {count} packets from {str(network).removesuffix('/32')} in all")
    return found[:_SHOWN]


def _refused(evidence: Evidence) -> list[str]:
    """What the guard has refused by the outer header meanwhile."""
    reasons = (Reason.SOURCE, Reason.PROTOCOL, Reason.GRE_HEADER)
    return [f'guard "{reason}" +{count}' for reason in reasons if (count := evidence.guarded(reason))]


def _errors(way: Way, evidence: Evidence) -> list[str]:
    received = evidence.received(way.link.name)
    counts = (("rx_errors", received.errors), ("rx_crc_errors", received.crc))
    return [f"{way.link.name} {name} +{count}" for name, count in counts if count]


def _packets(count: int, evidence: Evidence) -> str:
    return f"{count} packet{'s' * (count != 1)} captured in {evidence.seconds:.0f} s"


def _words(good: list[Outer], evidence: Evidence) -> str:
    by_source: dict[str, int] = {}
    for packet in good:
        by_source[str(packet.source)] = by_source.get(str(packet.source), 0) + 1
    least = "" if evidence.captured and evidence.captured.complete else "at least "
    return f"{least}{len(good)} packet{'s' * (len(good) != 1)} from {_some(by_source)} in {evidence.seconds:.0f} s"


def _some(named: dict[str, int]) -> str:
    names = list(named)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
