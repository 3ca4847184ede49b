"""Whether the largest packets fit: only what can be proven from here. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.state.model import Tunnel
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, unknown
from dsr_agent.truth.doctor.evidence import Evidence, is_in
from dsr_agent.truth.doctor.fit import fitting
from dsr_agent.truth.probe import Way
from dsr_agent.tunnels import carrier

_TCP_AND_IP = {4: 40, 6: 60}
_FRAGMENTS = ("IpReasmFails", "IpReasmTimeout", "Ip6ReasmFails", "Ip6ReasmTimeout")
_MOST = 200  # bytes; who has more around a packet has cut it, or put several into one


def mtu(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Fragments that get lost, and segments that clients are told of and that do not fit."""
    way = evidence.ways.get(tunnel.name)
    local = way.link.outer.local if way and way.link.outer else None
    card = evidence.observed.links.get(evidence.card_of(local))
    if way is None or card is None or not card.mtu:
        yield unknown(Stage.MTU, "the link that its packets arrive on is not known", tunnel.name)
        return
    told = Told(Stage.MTU, tunnel.name)
    overhead = _overhead(way, evidence)
    path, narrowed = _path(way, card.mtu, evidence)
    cut = sum(packet.fragment and packet.destination == local for packet in evidence.outer)
    lost = evidence.moved(*_FRAGMENTS)
    room = f"{path - overhead} bytes fit into {path}"
    if cut and lost:
        saw = f"load balancers' packets come in pieces, and some pieces are missing ({room})"
        remedy = f"raise the MTU between balancer and server to {card.mtu + overhead}, or let fragments pass there"
        yield told.fault(Cause.MTU_BLACK_HOLE, saw, remedy, f"{cut} fragments captured", *lost)
    elif too_large := _too_large(path - overhead, evidence):
        yield told.warning(Cause.MTU_BLACK_HOLE, f"{too_large}; {room}{narrowed}", _remedy(path - overhead, evidence))
    elif evidence.desired.guard is None or evidence.desired.guard.mss == 0:
        what = "nobody tells clients of smaller segments, so uploads depend on ICMP reaching them"
        yield unknown(Stage.MTU, f"{room}{narrowed}; {what}", tunnel.name)
    else:
        pieces = [f"{cut} fragments captured"] if cut else []
        yield ok(Stage.MTU, f"{room}{narrowed}", *pieces, *lost, tunnel=tunnel.name)


def _overhead(way: Way, evidence: Evidence) -> int:
    """What stands around a packet: as the file says, or more if more is seen (an encapsulation limit, say)."""
    requests = [packet for packet in fitting(way, evidence) if evidence.meant_for(packet, way.tunnel)]
    seen = [packet.overhead for packet in requests if packet.overhead and packet.overhead <= _MOST]
    return max([carrier(way.tunnel).overhead(way.tunnel), *seen])


def _remedy(room: int, evidence: Evidence) -> str:
    """What is told by itself goes by the card and by what is declared; what is known beside that has to be written."""
    guard = evidence.desired.guard
    if guard is not None and guard.mss is None:
        fits = room - max(_TCP_AND_IP[version] for version in evidence.desired.ip_versions)
        return f"write mss = {fits} in [guard]"
    return 'write mss = "auto" in [guard]'


def _path(way: Way, width: int, evidence: Evidence) -> tuple[int, str]:
    """What the way to the balancers is known to carry, and words about it if that is less than the card does."""
    known = {
        ip: answer.mtu
        for ip, answer in evidence.to_balancers.items()
        if answer.mtu and answer.mtu < width and (not way.tunnel.load_balancers or is_in(ip, way.tunnel.load_balancers))
    }
    if not known:
        return width, ""
    ip = min(known, key=lambda each: known[each])
    return known[ip], f" (the way to {ip} is known to carry no more)"


def _too_large(room: int, evidence: Evidence) -> str:
    """The segments that the guard tells clients of, where the file or the path makes them too large."""
    guard = evidence.desired.guard
    if guard is None or guard.mss == 0:
        return ""
    for version in evidence.desired.ip_versions:
        said = guard.mss or evidence.told_mss.get(version, 0)
        if said > room - _TCP_AND_IP[version]:
            return f"clients are told of TCP segments of {said} bytes, and {room - _TCP_AND_IP[version]} fit"
    return ""
