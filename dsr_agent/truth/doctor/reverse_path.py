"""The reverse-path filter of the tunnel's link, and who sets it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.state.model import Ip, Tunnel
from dsr_agent.state.probe import Sight
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, unknown
from dsr_agent.truth.doctor.evidence import Evidence
from dsr_agent.truth.doctor.tunnel import APPLY, lacks_address
from dsr_agent.truth.findings import said, suspect
from dsr_agent.truth.probe import Way

_COUNTER = "TcpExtIPReversePathFilter"
_STRICT, _LOOSE = 1, 2


def reverse_path(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether packets from clients pass it."""
    way = evidence.ways.get(tunnel.name)
    value = evidence.reverse_path(way.link.name) if way else None
    if way is None or value is None:
        yield unknown(Stage.REVERSE_PATH, "the tunnel's link is not there", tunnel.name)
        return
    told, name = Told(Stage.REVERSE_PATH, tunnel.name), way.link.name
    vrf = any(evidence.vrf_outside(vip, tunnel.name) for vip in evidence.vips)  # told of the way back
    moved = evidence.moved(_COUNTER)
    own = evidence.sysctl(f"net/ipv4/conf/{name}/rp_filter")
    what = f"rp_filter of {name} is {value}" + ("" if own == value else f" (its own {own}, that of all {value})")
    if value == _STRICT:
        yield _strict(way, f"{what}, which drops what does not come in by the way back", evidence)
    elif value and lacks_address(way, evidence):
        saw = f"{what}, and the link has no IPv4 address, so everything is dropped"
        yield told.fault(Cause.REVERSE_PATH, saw, APPLY, *moved)
    elif value == _LOOSE and not vrf and (lost := _no_route(evidence)):
        saw = f"no route to clients ({lost}), so the filter drops what they send"
        yield told.fault(Cause.NO_CLIENT_ROUTE, saw, "ip route add default via GATEWAY", *moved)
    else:
        yield ok(Stage.REVERSE_PATH, what, *moved, tunnel=tunnel.name)


def tested(tunnel: Tunnel, vip: Ip, sight: Sight | None, evidence: Evidence) -> Iterator[Finding]:
    """What the self-test of one VIP says of it; only faults."""
    if sight is not None and suspect(sight) == "reverse_path":
        way = evidence.ways.get(tunnel.name)
        link = way.link.name if way else tunnel.name
        remedy = f"sysctl -w net/ipv4/conf/{link}/rp_filter={_LOOSE}"
        told = Told(Stage.REVERSE_PATH, tunnel.name, vip)
        yield told.fault(Cause.REVERSE_PATH, f"the self-test {said(sight)}", remedy, *evidence.moved(_COUNTER))


def _strict(way: Way, saw: str, evidence: Evidence) -> Finding:
    """The link's own value goes above that of all, if it is the larger; else 2 on the link does."""
    path = f"net/ipv4/conf/{way.link.name}/rp_filter"
    told, moved = Told(Stage.REVERSE_PATH, way.tunnel.name), evidence.moved(_COUNTER)
    lines = [each for each in evidence.sysctl_files.get(path, ()) if each.value != str(_LOOSE)]
    if not lines:
        return told.fault(Cause.REVERSE_PATH, saw, f"sysctl -w {path}={_LOOSE}", *moved)
    culprit = lines[-1]
    remedy = f"sysctl -w {path}={_LOOSE}, and write {path}={_LOOSE} into {culprit.file} after line {culprit.line}"
    return told.fault(Cause.REVERSE_PATH_SYSCTL_D, f"{saw}; {culprit}", remedy, *moved)


def _no_route(evidence: Evidence) -> str:
    """A client to whom there is no route at all, if there is none to anybody that was asked about."""
    asked = {ip: answer for ip, answer in evidence.ordinary.items() if ip.version == 4}
    if not asked or any(answer.leads_out for answer in asked.values()):
        return ""
    ip, answer = next(iter(asked.items()))
    return f"to {ip}: {answer}"
