"""Whether answers from the VIP find their way to clients. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.kernel.policy import Neighbour, Route, Rule
from dsr_agent.state.model import Ip, Vip
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, skipped, unknown
from dsr_agent.truth.doctor.evidence import Evidence

_UNSENT = ("IpOutNoRoutes", "Ip6OutNoRoutes", "TcpExtListenDrops")
_DECIDING = ("lookup", "blackhole", "unreachable", "prohibit")


def way_back(vip: Vip, evidence: Evidence) -> Iterator[Finding]:
    """The route from the VIP to clients, as the kernel answers it."""
    asked = evidence.answers.get(vip.ip, {})
    if not asked:
        yield unknown(Stage.WAY_BACK, "nobody was asked about", vip=vip.ip)
        return
    for client, answer in asked.items():
        if not answer.leads_out:
            yield _lost(vip, client, answer, evidence)
            return
    client, answer = next(iter(asked.items()))
    told = Told(Stage.WAY_BACK, vip=vip.ip)
    arrived = _arrived_by(vip, evidence)
    vrf = _vrf(vip, evidence)
    if dead := next((each for each in asked.items() if _next_hop(*each) in evidence.silent), None):
        yield _to_nobody(vip, *dead, evidence)
    elif arrived and answer.link not in arrived:
        saw = f"requests come in by {', '.join(sorted(arrived))}, and answers to {client} go {answer}"
        saw += f", outside of VRF {vrf}" if vrf else ""
        yield told.warning(
            Cause.WAY_BACK_ASYMMETRIC, saw, f"if that is not meant so: ip route get {client} from {vip.ip}"
        )
    else:
        yield ok(Stage.WAY_BACK, f"to {client} {answer}", vip=vip.ip)


def _lost(vip: Vip, client: Ip, answer: Route, evidence: Evidence) -> Finding:
    told, moved = Told(Stage.WAY_BACK, vip=vip.ip), evidence.moved(*_UNSENT)
    if vip.key not in evidence.observed.addresses:
        return skipped(Stage.WAY_BACK, "the VIP is not here, so nothing is sent from it", vip=vip.ip)
    if vrf := _vrf(vip, evidence):
        return _out_of(vip, vrf, f"requests come in by VRF {vrf}, and answers to {client} have {answer}", evidence)
    saw = f"answers to {client}: {answer}"
    ordinary = evidence.ordinary.get(client)
    if rule := _rule(vip, client, evidence):
        return told.fault(Cause.WAY_BACK_RULE, f"{saw}, for {rule}", rule.removal, *moved)
    six = "-6 " * (vip.ip.version == 6)
    if ordinary and not ordinary.refused and ordinary.kind != "unicast":
        remedy = f"ip {six}route del {ordinary.kind} DESTINATION (ip {six}route list type {ordinary.kind} names it)"
        return told.fault(Cause.WAY_BACK_MISSING, saw, remedy, *moved)
    return told.fault(Cause.WAY_BACK_MISSING, saw, f"ip {six}route add default via GATEWAY", *moved)


def _next_hop(client: Ip, answer: Route) -> Neighbour:
    return Neighbour(answer.link, answer.gateway or client)


def _to_nobody(vip: Vip, client: Ip, answer: Route, evidence: Evidence) -> Finding:
    told, hop = Told(Stage.WAY_BACK, vip=vip.ip), _next_hop(client, answer)
    saw = f"answers to {client} go {answer}, and {hop.ip} is not to be found on {hop.link}"
    found = f"neighbour {hop.ip} on {hop.link}: no answer"
    if answer != evidence.ordinary.get(client) and (rule := _rule(vip, client, evidence)):
        return told.fault(Cause.WAY_BACK_RULE, f"{saw}, for {rule}", rule.removal, found)
    six = "-6 " * (vip.ip.version == 6)
    remedy = f"ip {six}route replace default via GATEWAY dev {hop.link}, or bring {hop.ip} back"
    return told.fault(Cause.WAY_BACK_MISSING, saw, remedy, found)


def _rule(vip: Vip, client: Ip, evidence: Evidence) -> Rule | None:
    """The routing rule that decides about answers to *client*, if it is none that every host has."""
    for rule in evidence.rules:
        if not rule.ordinary and not rule.also and rule.concerns(vip.ip, client, "lo") and rule.action in _DECIDING:
            return rule
    return None


def _out_of(vip: Vip, vrf: str, saw: str, evidence: Evidence) -> Finding:
    told = Told(Stage.WAY_BACK, vip=vip.ip)
    remedy = f'write vrf = "{vrf}" in the [[tunnel]], and start the application in it (ip vrf exec {vrf})'
    return told.fault(Cause.WAY_BACK_VRF, saw, remedy, *evidence.moved(*_UNSENT))


def _arrived_by(vip: Vip, evidence: Evidence) -> set[str]:
    """The links by which requests for the VIP were seen to come."""
    return {packet.link for packet in evidence.sent_to.get(vip.ip, ())}


def _vrf(vip: Vip, evidence: Evidence) -> str:
    """The VRF by which the VIP's requests come in while the VIP is outside of it; empty if there is none."""
    return next(filter(None, (evidence.vrf_outside(vip, name) for name in vip.tunnels)), "")
