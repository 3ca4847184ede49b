"""What load balancers really send, held against what the file says they do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.kernel.headers import CapturedPacket
from dsr_agent.state.model import Network, Tunnel
from dsr_agent.truth.doctor.cards import deaf
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, StageResult, Told, ok, unknown
from dsr_agent.truth.doctor.evidence import Evidence, is_in
from dsr_agent.truth.doctor.fit import (
    Misfit,
    declared,
    distance,
    fits,
    fitting,
    local_of,
    misfit,
    name_of,
    name_of_packet,
    taken_anyway,
)
from dsr_agent.truth.probe import Way
from dsr_agent.tunnels import carrier

_SHOWN = 3


def arriving(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether something comes in for the tunnel, and whether it is what it takes."""
    way = evidence.ways.get(tunnel.name)
    if evidence.captured is None or way is None:
        yield _by_the_guard(tunnel, evidence)
        return
    good = fitting(way, evidence)
    used = any(evidence.meant_for(packet, tunnel) for packet in good)
    wrong = list(_wrong(way, used, evidence))
    yield from wrong
    if good:
        yield ok(Stage.ARRIVING, _words(good, evidence), *evidence_of(tunnel, evidence), tunnel=tunnel.name)
        yield from _silent(tunnel, good, evidence)
    elif not wrong:
        yield _nothing(way, evidence)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _wrong(way: Way, used: bool, evidence: Evidence) -> Iterator[Finding]:
    """
    What comes in and is taken by no tunnel of the file, once for each way of being wrong.

    *used*: others send for its VIPs what it takes.
    """
    seen: dict[tuple[Misfit, StageResult], int] = {}
    strangers: dict[str, list[CapturedPacket]] = {}
    for packet in evidence.outer:
        if packet.later or any(fits(packet, other) for other in evidence.ways.values()):
            continue
        if not evidence.meant_for(packet, way.tunnel):
            continue
        if (result := _concerns(packet, way, used, evidence)) and (found := misfit(packet, way, evidence)):
            seen[found, result] = seen.get((found, result), 0) + 1
        elif _is_strangers(packet, way, evidence):
            strangers.setdefault(str(packet.source), []).append(packet)
    refused = _refused(evidence)
    for (found, result), count in seen.items():
        counted = (_packets(count, evidence), *refused, *_errors(way, evidence))
        told = Told(Stage.ARRIVING, way.tunnel.name)
        make = told.fault if result is StageResult.FAULT else told.warning
        yield make(found.cause, found.saw, found.remedy, *counted)
    if strangers:
        yield _strangers(way, strangers, used, evidence)


def _concerns(packet: CapturedPacket, way: Way, used: bool, evidence: Evidence) -> StageResult | None:
    """
    How bad it is for the tunnel that the packet is not taken; None if it was not meant for this one.

    Over the other version of IP nobody can be declared as its balancer, so it may be anybody's.
    """
    ways = [other for other in evidence.ways.values() if evidence.meant_for(packet, other.tunnel)]
    known = [other for other in ways if declared(packet, other)]
    if not known:
        if packet.version in {other.tunnel.version for other in ways} or packet.inner is None:
            return None
        if packet.destination not in evidence.own:
            return None
        known = ways
    closest = min(distance(packet, other) for other in known)
    if way.tunnel.name not in [other.tunnel.name for other in known if distance(packet, other) == closest]:
        return None
    if packet.version != way.tunnel.version:
        return StageResult.WARNING if used else StageResult.FAULT
    return StageResult.WARNING if taken_anyway(packet, evidence) else StageResult.FAULT


def _is_strangers(packet: CapturedPacket, way: Way, evidence: Evidence) -> bool:
    """Whether it would fit, but for its sender, who is declared for no tunnel."""
    tunnel = way.tunnel
    here = packet.destination == local_of(way) and packet.encapsulation == tunnel.encapsulation
    return here and packet.port == tunnel.port and not any(declared(packet, other) for other in evidence.ways.values())


def _strangers(way: Way, strangers: dict[str, list[CapturedPacket]], used: bool, evidence: Evidence) -> Finding:
    told, first = Told(Stage.ARRIVING, way.tunnel.name), next(iter(strangers))
    saw = f"{_some(strangers)} send{'s' * (len(strangers) == 1)} {name_of_packet(strangers[first][0])}"
    saw += f" and {'is' if len(strangers) == 1 else 'are'} no declared load balancer{'s' * (len(strangers) > 1)}"
    remedy = f'add "{first}" to load_balancers in [[tunnel]] {way.tunnel.name}, or find out who that is'
    counted = (_packets(sum(map(len, strangers.values())), evidence), *_refused(evidence))
    make = told.warning if used else told.fault
    return make(Cause.GUARD_REFUSES_SOURCE, saw, remedy, *counted)


# --- nothing, or not everybody ----------------------------------------------------------------------------------------


def _nothing(way: Way, evidence: Evidence) -> Finding:
    """Nobody sends: no traffic, or something before this host keeps it back; the two look alike from here."""
    told, tunnel = Told(Stage.ARRIVING, way.tunnel.name), way.tunnel
    assert evidence.captured is not None
    if not evidence.captured.complete:
        return unknown(Stage.ARRIVING, "there was more traffic than could be looked at", tunnel.name)
    saw = f"no {name_of(tunnel)} from any load balancer in {evidence.seconds:.0f} s"
    local = local_of(way)
    if found := deaf(evidence, [local] if local else []):
        return told.fault(found.cause, f"{saw}: {found.card}, which has {local}, {found.why}", found.remedy)
    wrapped = set(evidence.outer)
    others = [packet for packet in evidence.captured.arrived if packet not in wrapped and declared(packet, way)]
    talking = {str(packet.source): 1 for packet in others}
    if talking and tunnel.load_balancers:
        saw += f", though {_some(talking)} reach{'es' * (len(talking) == 1)} this host otherwise"
    what, how = _on_the_wire(tunnel, evidence)
    card = evidence.card_of(local) or "any"
    remedy = (
        f"let {what} pass between balancer and server (security groups, access lists), "
        f"and see whether it comes: tcpdump -ni {card} {how}"
    )
    return told.warning(Cause.NOTHING_ARRIVES, saw, remedy, *evidence_of(tunnel, evidence), *_refused(evidence))


def _on_the_wire(tunnel: Tunnel, evidence: Evidence) -> tuple[str, str]:
    """What has to pass between balancer and server, in words and as tcpdump has it."""
    if tunnel.port is not None:
        return f"UDP port {tunnel.port}", f"{'ip' if tunnel.version == 4 else 'ip6'} and udp dst port {tunnel.port}"
    inner = {vip.ip.version for vip in evidence.vips if tunnel.name in vip.tunnels}
    numbers = sorted({carrier(tunnel).protocol(version) for version in inner})
    name = "protocol" if tunnel.version == 4 else "next header"
    ask = "ip proto" if tunnel.version == 4 else "ip6 protochain"  # which sees through an encapsulation limit
    return f"{name} {' and '.join(map(str, numbers))}", " or ".join(f"{ask} {number}" for number in numbers)


def _silent(tunnel: Tunnel, good: Iterable[CapturedPacket], evidence: Evidence) -> Iterator[Finding]:
    """Declared balancers from which nothing ever came, while others send."""
    sending = {packet.source for packet in good}
    silent = {}
    for network in tunnel.load_balancers:
        if not any(is_in(source, [network]) for source in sending) and not evidence.ever(tunnel.name, network):
            silent[_called(network)] = 1
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
            found.append(f"the guard has let in {count} packets from {_called(network)} in all")
    return found[:_SHOWN]


def _refused(evidence: Evidence) -> list[str]:
    """What the guard has refused by the outer header meanwhile."""
    reasons = (RefusalReason.SOURCE, RefusalReason.PROTOCOL, RefusalReason.GRE_HEADER, RefusalReason.UDP_HEADER)
    return [f'guard "{reason}" +{count}' for reason in reasons if (count := evidence.guarded(reason))]


def _errors(way: Way, evidence: Evidence) -> list[str]:
    received = evidence.received(way.link.name)
    counts = (("rx_errors", received.errors), ("rx_crc_errors", received.crc))
    return [f"{way.link.name} {name} +{count}" for name, count in counts if count]


def _packets(count: int, evidence: Evidence) -> str:
    return f"{count} packet{'s' * (count != 1)} captured in {evidence.seconds:.0f} s"


def _words(good: list[CapturedPacket], evidence: Evidence) -> str:
    by_source: dict[str, int] = {}
    for packet in good:
        by_source[str(packet.source)] = by_source.get(str(packet.source), 0) + 1
    least = "" if evidence.captured and evidence.captured.complete else "at least "
    return f"{least}{len(good)} packet{'s' * (len(good) != 1)} from {_some(by_source)} in {evidence.seconds:.0f} s"


def _called(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _some(named: Iterable[str]) -> str:
    names = list(named)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
