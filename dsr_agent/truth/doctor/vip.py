"""Whether this host accepts what is for the VIP. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.state.errors import DsrError
from dsr_agent.state.model import LinkKey, Vip
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, unknown
from dsr_agent.truth.doctor.evidence import Evidence
from dsr_agent.truth.doctor.tunnel import APPLY
from dsr_agent.truth.findings import suspect

_UNACCEPTED = ("IpInAddrErrors", "Ip6InAddrErrors", "IpForwDatagrams", "Ip6OutForwDatagrams")


def vip(wanted: Vip, sights: dict[str, Sight], evidence: Evidence) -> Iterator[Finding]:
    """*sights* are the self-test's results for it, by tunnel."""
    told, moved = Told(Stage.VIP, vip=wanted.ip), evidence.moved(*_UNACCEPTED)
    there = wanted.key in evidence.observed.addresses
    problems = evidence.problems.get(wanted.key)
    if problems:
        yield _problem(wanted, problems[0], evidence)
    elif not there:
        yield _missing(wanted, evidence)
    elif any(sight.what is Seen.NO_VIP for sight in sights.values()):
        yield _unreachable(wanted, evidence)
    elif diverted := [name for name, sight in sights.items() if suspect(sight) == "routing"]:
        yield _diverted(wanted, diverted[0], evidence)
    elif any(sight.what is Seen.REFUSED for sight in sights.values()):
        why = next(sight.why for sight in sights.values() if sight.what is Seen.REFUSED)
        yield unknown(Stage.VIP, why, vip=wanted.ip)
    elif wanted.ip in evidence.desired.held:
        saw = "it is held: load balancers that ask are told that it is not ready"
        yield told.warning(Cause.VIP_HELD, saw, f"dsr-agent release {wanted.ip}")
    else:
        yield ok(Stage.VIP, f"{wanted.key}", *moved, vip=wanted.ip)
    for action in evidence.sysctls_to_write:
        if "/arp_" in action.sysctl.path and wanted.ip.version == 4:
            path = action.sysctl.path
            saw = f"{path} is {evidence.sysctl(path)}, so this host may answer ARP for the VIP on {action.link}"
            yield told.warning(Cause.ARP_ANSWERS, saw, f"sysctl -w {path}={action.sysctl.value}")
            break


def _problem(wanted: Vip, error: DsrError, evidence: Evidence) -> Finding:
    told = Told(Stage.VIP, vip=wanted.ip)
    remedy = error.remedy or "dsr-agent plan"
    if wanted.key in evidence.observed.addresses:  # it does its work, and something else is amiss
        return told.warning(Cause.VIP_ELSEWHERE, error.problem, remedy)
    return told.fault(Cause.VIP_ELSEWHERE, error.problem, remedy, *evidence.moved(*_UNACCEPTED))


def _missing(wanted: Vip, evidence: Evidence) -> Finding:
    told, moved = Told(Stage.VIP, vip=wanted.ip), evidence.moved(*_UNACCEPTED)
    for error in evidence.problems.get(LinkKey(wanted.device), ()):
        return told.fault(Cause.VIP_MISSING, error.problem, error.remedy or APPLY, *moved)
    if wanted.ip in evidence.desired.held:
        return told.fault(Cause.VIP_HELD, "it is held, and not here", f"dsr-agent release {wanted.ip}", *moved)
    if elsewhere := evidence.places.get(wanted.ip):
        saw = f"it is {elsewhere[0]}, and not on {wanted.device}"
        return told.fault(Cause.VIP_ELSEWHERE, saw, APPLY, *moved)
    return told.fault(Cause.VIP_MISSING, f"it is not on {wanted.device}", APPLY, *moved)


def _unreachable(wanted: Vip, evidence: Evidence) -> Finding:
    """The address is there, and no socket can be had on it."""
    told, moved = Told(Stage.VIP, vip=wanted.ip), evidence.moved(*_UNACCEPTED)
    device = evidence.observed.links.get(wanted.device)
    if wanted.ip.version == 6 and wanted.device != "lo":
        saw = f"it is on {wanted.device}, and not usable (yet): tentative, or somebody else has it"
        remedy = f"ip -6 addr change {wanted.ip}/128 dev {wanted.device} nodad"
        return told.fault(Cause.IPV6_TENTATIVE, saw, remedy, *moved)
    if device and not device.up:
        saw = f"it is on {wanted.device}, which is down"
        return told.fault(Cause.VIP_ELSEWHERE, saw, f"ip link set {wanted.device} up", *moved)
    local = f"local {wanted.ip} dev {wanted.device} " + (f"vrf {wanted.vrf}" if wanted.vrf else "table local")
    saw = f"the address is on {wanted.device}, and its local route is not there"
    return told.fault(Cause.VIP_MISSING, saw, f"ip {'-6 ' * (wanted.ip.version == 6)}route add {local}", *moved)


def _diverted(wanted: Vip, tunnel: str, evidence: Evidence) -> Finding:
    """A routing rule is asked before the table that knows the VIP."""
    told, moved = Told(Stage.VIP, vip=wanted.ip), evidence.moved(*_UNACCEPTED)
    way = evidence.ways.get(tunnel)
    link = way.link.name if way else tunnel
    client = next((ip for ip in evidence.ordinary if ip.version == wanted.ip.version), wanted.ip)
    for rule in evidence.rules:
        if not rule.ordinary and not rule.also and rule.concerns(client, wanted.ip, link):
            saw = f"{rule} leads what comes out of {link} elsewhere"
            return told.fault(Cause.VIP_RULE, saw, rule.removal, *moved)
    saw = "routes or rules of this host lead its packets nowhere"
    return told.fault(Cause.VIP_RULE, saw, "ip rule list", *moved)
