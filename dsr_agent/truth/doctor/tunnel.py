"""The module, the local address and the tunnel: whether something is there that takes the header off. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.state.actions import AddAddress
from dsr_agent.state.errors import Foreign, Unsupported
from dsr_agent.state.marks import FALLBACK_DEVICES, owns_link
from dsr_agent.state.model import MODULE_OF_KIND, Key, Link, LinkKey, Tunnel, TunnelKey, Vip
from dsr_agent.state.outer import MODULE_OF_PORTS
from dsr_agent.state.probe import Seen
from dsr_agent.state.why import Why
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, unknown
from dsr_agent.truth.doctor.evidence import Evidence
from dsr_agent.truth.findings import said, suspect
from dsr_agent.truth.probe import Way
from dsr_agent.tunnels import carrier

APPLY = "dsr-agent apply"

# What the kernel counts when no link takes a wrapped packet (facts B2), and when nobody has a UDP port.
_UNTAKEN = ("IpInUnknownProtos", "Ip6InUnknownProtos", "IcmpOutDestUnreachs", "IcmpMsgOutType3", "Icmp6OutDestUnreachs")
# Over IPv6 nobody but a tunnel's port takes datagrams without a checksum, so those count as wrong ones.
_NO_PORT = ("UdpNoPorts", "Udp6NoPorts", "Udp6InCsumErrors", *_UNTAKEN)


def module(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether the kernel has such links at all, and can take packets out of UDP where they come in it."""
    way, observed = evidence.ways.get(tunnel.name), evidence.observed
    kind = way.link.kind if way else carrier(tunnel).kinds[0]
    link = way.link.key if way else LinkKey(tunnel.name)
    there = any(each.kind == kind for each in observed.links.values())
    yield _module(MODULE_OF_KIND.get(kind, kind), tunnel, link, there, evidence)
    if tunnel.port is not None:
        port = way.port if way and way.port else link
        yield _module(MODULE_OF_PORTS, tunnel, port, bool(observed.ports), evidence)


def _module(name: str, tunnel: Tunnel, need: Key, there: bool, evidence: Evidence) -> Finding:
    """*there*: what it brings is; *need*: what a look at the host has said something about that it was to bring."""
    told = Told(Stage.MODULE, tunnel.name)
    if there or name in evidence.observed.modules:
        return ok(Stage.MODULE, f"{name} is there", tunnel=tunnel.name)
    refused = (error for error in evidence.problems.get(need, ()) if isinstance(error, Unsupported))
    error = evidence.observed.obstacles.get(name) or next(refused, None)
    moved = evidence.moved(*_UNTAKEN)
    if error is None:
        return told.fault(Cause.MODULE_MISSING, f"module {name} is not loaded", f"modprobe {name}", *moved)
    forbidden = "blacklisted" in error.problem or "modules_disabled" in error.problem
    cause = Cause.MODULE_FORBIDDEN if forbidden else Cause.MODULE_MISSING
    return told.fault(cause, error.problem, error.remedy, *moved)


# --- the local address ------------------------------------------------------------------------------------------------


def local(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether the address that the balancers send to is known, and on this host."""
    told = Told(Stage.LOCAL, tunnel.name)
    way = evidence.ways.get(tunnel.name)
    address = way.link.outer.local if way and way.link.outer else None
    card = evidence.card_of(address)
    for error in evidence.problems.get(TunnelKey(tunnel.name), ()):
        remedy = error.remedy or "write in its [[tunnel]]: local = the address that the load balancers send to"
        if card:  # it is kept meanwhile, and does its work
            yield told.warning(Cause.LOCAL_MISSING, f"{error.problem}; it stays {address}", remedy)
        else:
            yield told.fault(Cause.LOCAL_MISSING, error.problem, remedy)
        return
    if address is None:
        yield unknown(Stage.LOCAL, "it is not known", tunnel.name)
    elif not card:
        remedy = f"put {address} back on its interface, or correct local in its [[tunnel]]"
        yield told.fault(Cause.LOCAL_MISSING, f"its local address {address} is not on this host", remedy)
    else:
        yield ok(Stage.LOCAL, f"{address} is on {card}", tunnel=tunnel.name)


# --- the link ---------------------------------------------------------------------------------------------------------


def link(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether the link is there, ours, up and as declared, and nothing takes its packets in its place."""
    way = evidence.ways.get(tunnel.name)
    if way is None:
        yield unknown(Stage.TUNNEL, "it has no local address yet, so there is no link", tunnel.name)
        return
    found = evidence.observed.links.get(way.link.name)
    faults = list(_faults(way, found, evidence))
    yield from faults
    yield from _settings(way, evidence)
    if not any(fault.blocks for fault in faults):
        received = evidence.received(way.link.name)
        counted = f"{way.link.name} rx_packets +{received.packets} in {evidence.seconds:.0f} s"
        port = f", and packets are taken out of {way.port}" if way.port else ""
        yield ok(Stage.TUNNEL, f"{found}{port}", counted, tunnel=tunnel.name)


def _faults(way: Way, found: Link | None, evidence: Evidence) -> Iterator[Finding]:
    told, name = Told(Stage.TUNNEL, way.tunnel.name), way.link.name
    masking = _masking(way, evidence)
    moved, errors = evidence.moved(*_UNTAKEN), evidence.problems.get(way.link.key, [])
    lack = "is not there" if found is None else "is down" if not found.up else ""
    if lack and masking:
        saw = f"{name} {lack}, and {masking}, which is up, takes its packets: past the guard's eyes, and only for now"
        yield told.fault(Cause.TUNNEL_MASKED, saw, APPLY, *moved)
    elif found is None:
        saw = "; ".join([f"{name} is not there", *(error.problem for error in errors)])
        remedies = [error.remedy for error in errors if error.remedy]
        yield told.fault(Cause.TUNNEL_MISSING, saw, remedies[0] if remedies else APPLY, *moved)
    elif not _as_declared(found, way):
        saw = f"it is {found}{_mode(found, way)}; declared is {way.link.kind} {way.link.outer}"
        saw = errors[0].problem if errors else saw
        yield told.fault(Cause.TUNNEL_OTHER, saw, errors[0].remedy if errors and errors[0].remedy else APPLY, *moved)
    elif lack:
        yield told.fault(Cause.TUNNEL_DOWN, f"{name} is down", f"ip link set {name} up", *moved)
    elif found.master != way.link.master:
        is_, wanted = (f"to VRF {master}" if master else "to no VRF" for master in (found.master, way.link.master))
        to = f"master {way.link.master}" if way.link.master else "nomaster"
        yield told.fault(
            Cause.TUNNEL_OTHER, f"{name} belongs {is_}, and has to belong {wanted}", f"ip link set {name} {to}"
        )
    elif closed := _closed(way, evidence):
        yield closed
    elif not any(evidence.vrf_outside(vip, way.tunnel.name) for vip in _vips(way, evidence)):  # told of the way back
        yield from _tested(way, evidence)


def _closed(way: Way, evidence: Evidence) -> Finding | None:
    """Nobody takes the tunnel's packets out of UDP, or somebody else does, otherwise."""
    told, port, moved = Told(Stage.TUNNEL, way.tunnel.name), way.port, evidence.moved(*_NO_PORT)
    if port is None or any(there.serves(port) for there in evidence.observed.ports):
        return None
    for error in evidence.problems.get(port, ()):
        if isinstance(error, Foreign):
            return told.fault(Cause.PORT_TAKEN, error.problem, error.remedy, *moved)
    if who := evidence.squatters.get(port):
        remedy = f"ss -lnup sport = {port.number} says which; stop it, or write another port"
        return told.fault(Cause.PORT_TAKEN, f"another program has {port} (a socket on {who})", remedy, *moved)
    return told.fault(Cause.PORT_CLOSED, f"packets are not taken out of {port}", APPLY, *moved)


def _mode(found: Link, way: Way) -> str:
    """What is not seen in the link's words: which packets inside it takes, if that is what differs."""
    mode, wanted = (outer.protocol if outer else 0 for outer in (found.outer, way.link.outer))
    if found.kind != way.link.kind or mode in (0, wanted):
        return ""
    return f" and takes only IPv{4 if mode == 4 else 6} inside"


def _as_declared(found: Link, way: Way) -> bool:
    wanted = way.link
    if found.kind != wanted.kind or found.outer is None or wanted.outer is None:
        return False
    return carrier(way.tunnel).same(found.outer, wanted.outer) and owns_link(found)


def _vips(way: Way, evidence: Evidence) -> list[Vip]:
    return [vip for vip in evidence.vips if way.tunnel.name in vip.tunnels]


def _masking(way: Way, evidence: Evidence) -> str:
    """
    The fallback device that would take the tunnel's packets, if it is up.

    An ``ipip`` device is asked before any ``sit`` one (priorities 1 and 2: net/ipv4/ipip.c, net/ipv6/sit.c).
    """
    takers = {way.link.kind, *({"ipip"} & set(carrier(way.tunnel).kinds))}
    for name in sorted(FALLBACK_DEVICES & evidence.observed.links.keys()):
        device = evidence.observed.links[name]
        if device.up and device.kind in takers and name != way.link.name:
            return name
    return ""


def _tested(way: Way, evidence: Evidence) -> Iterator[Finding]:
    """What the self-test says of a link that looks all right."""
    told = Told(Stage.TUNNEL, way.tunnel.name)
    for _, sight in evidence.sights_of(way.tunnel.name):
        if sight.what is Seen.ELSEWHERE:
            saw = f"the self-test's packet came out of {sight.came}, which takes the tunnel's packets in its place"
            # The kernel makes a fallback device again as long as its module is there.
            remedy = f"ip link set {sight.came} down" if sight.came in FALLBACK_DEVICES else f"ip link del {sight.came}"
            yield told.fault(Cause.TUNNEL_MASKED, saw, remedy)
            return
        if sight.what is Seen.NO_TUNNEL or suspect(sight) in ("tunnel", "tunnel_refuses"):
            refused = evidence.received(way.link.name)
            counted = [f"{way.link.name} rx_errors +{refused.errors}"] if refused.errors else []
            yield told.fault(
                Cause.TUNNEL_OTHER, f"self-test: {said(sight)}", APPLY, *counted, *evidence.moved(*_UNTAKEN)
            )
            return


def _settings(way: Way, evidence: Evidence) -> Iterator[Finding]:
    """Settings of the link that somebody has changed, the reverse-path filter left to its own stage."""
    told, name = Told(Stage.TUNNEL, way.tunnel.name), way.link.name
    if name not in evidence.observed.links:
        return
    for action in evidence.sysctls_to_write:
        if action.link != name or action.sysctl.path.endswith("rp_filter") or action.why is Why.NEW:
            continue  # new ones are those of the link that is to take its place
        path = action.sysctl.path
        found = f"{path} is {evidence.sysctl(path)}"
        remedy = f"sysctl -w {path}={action.sysctl.value}"
        if path.endswith("disable_ipv6"):
            yield told.fault(
                Cause.TUNNEL_DISABLED_IPV6, f"{found}: no IPv6 comes out", remedy, *evidence.moved("Ip6InDiscards")
            )
        else:
            yield told.warning(Cause.TUNNEL_SETTINGS, f"{found}, wanted {action.sysctl.value}", remedy)


def lacks_address(way: Way, evidence: Evidence) -> bool:
    """Whether the link has no IPv4 address, without which loose reverse-path filtering drops everything (facts B2)."""
    planned = any(
        isinstance(action, AddAddress) and action.key.link == way.link.name for action in evidence.todo.actions
    )
    return planned and not any(key.link == way.link.name and key.ip.version == 4 for key in evidence.observed.addresses)
