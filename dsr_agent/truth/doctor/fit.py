"""Whether a packet is what a tunnel takes and its guard lets in; and if not, in what it differs. Pure."""

from __future__ import annotations

from typing import NamedTuple

from dsr_agent.kernel.headers import UDP, CapturedPacket
from dsr_agent.state.model import Ip, Tunnel
from dsr_agent.truth.doctor.causes import Cause
from dsr_agent.truth.doctor.evidence import Evidence, is_in
from dsr_agent.truth.probe import Way
from dsr_agent.tunnels import PROTOCOLS_OF_KIND

_NAMES = {"ipip": "IPIP", "gre": "GRE", "gue": "GUE", "fou": "FOU"}
_IP_IN_IP = frozenset(kind for kind, protocols in PROTOCOLS_OF_KIND.items() if 4 in protocols)


class Misfit(NamedTuple):
    """The cause, what was seen, and what to write."""

    cause: Cause
    saw: str
    remedy: str


# --- names ------------------------------------------------------------------------------------------------------------


def name_of(tunnel: Tunnel) -> str:
    """What the tunnel takes."""
    return _over(_NAMES[tunnel.encapsulation], tunnel.version)


def name_of_packet(packet: CapturedPacket) -> str:
    """What it is wrapped in."""
    name = _NAMES.get(packet.encapsulation, "what is neither GUE nor FOU" if packet.protocol == UDP else "")
    if packet.protocol == 41 and packet.version == 4:
        name = "6in4"
    port = f" to port {packet.port}" if packet.protocol == UDP and packet.port is not None else ""
    return _over(name or f"protocol {packet.protocol}", packet.version) + port


def _over(name: str, version: int) -> str:
    return name if version == 4 else f"{name} over IPv6"


# --- does it fit ------------------------------------------------------------------------------------------------------


def fitting(way: Way, evidence: Evidence) -> list[CapturedPacket]:
    """What came in from a declared balancer in the form that the tunnel takes; its later fragments left away."""
    return [packet for packet in evidence.outer if not packet.later and fits(packet, way)]


def fits(packet: CapturedPacket, way: Way) -> bool:
    """Whether the tunnel takes it, and the guard lets it in."""
    if packet.destination != local_of(way) or packet.encapsulation != way.tunnel.encapsulation:
        return False
    return declared(packet, way) and _form(packet, way) is None


def declared(packet: CapturedPacket, way: Way) -> bool:
    """Whether its sender may send into the tunnel."""
    senders = way.tunnel.load_balancers
    return packet.version == way.tunnel.version and (not senders or is_in(packet.source, senders))


def local_of(way: Way) -> Ip | None:
    """Where the tunnel's packets arrive."""
    return way.link.outer.local if way.link.outer else None


def distance(packet: CapturedPacket, way: Way) -> tuple[bool, bool, bool, bool]:
    """How far it is from what the tunnel takes: of several tunnels, the closest is the one that it was meant for."""
    tunnel, local = way.tunnel, packet.destination == local_of(way)
    if tunnel.port is None:
        door = packet.encapsulation == tunnel.encapsulation
    else:
        door = packet.protocol == UDP and packet.port == tunnel.port
    other = packet.encapsulation != tunnel.encapsulation
    return packet.version != tunnel.version, not (door and local), other, not local


def taken_anyway(packet: CapturedPacket, evidence: Evidence) -> bool:
    """
    Whether the kernel takes what only the guard would refuse, because there is no guard.

    Links of IP in IP take whatever comes out of UDP, and the other way round; a port takes GUE and FOU alike.
    """
    if evidence.observed.guard.table is not None or packet.encapsulation not in ("ipip", "gue", "fou"):
        return False
    if packet.protocol == UDP and not any(
        port.takes_all
        and (port.key.number, port.key.version) == (packet.port, packet.version)
        and port.key.local in (None, packet.destination)
        for port in evidence.observed.ports
    ):
        return False
    six = packet.inner is not None and packet.inner.destination.version == 6
    return any(
        link.up
        and link.kind in (_IP_IN_IP - {"ipip"} if six else _IP_IN_IP)
        and link.outer is not None
        and link.outer.local == packet.destination
        and link.outer.remote in (None, packet.source)
        for link in evidence.observed.links.values()
    )


# --- in what it differs -----------------------------------------------------------------------------------------------


def misfit(packet: CapturedPacket, way: Way, evidence: Evidence) -> Misfit | None:
    """In what a balancer's packet differs from what the tunnel takes."""
    tunnel = way.tunnel
    if packet.version != tunnel.version:
        versions = "IPv4 only" if tunnel.version == 4 else "IPv6 only"
        saw = f"{packet.source} sends {name_of_packet(packet)}; the file says {tunnel.encapsulation} over {versions}"
        remedy = f'add a [[tunnel]] with {_words(packet, tunnel)} and load_balancers = ["{packet.source}"]'
        return Misfit(Cause.BALANCER_SENDS_OTHER, saw, f"{remedy}, or correct the load balancer")
    if packet.encapsulation != tunnel.encapsulation:
        saw = f"{packet.source} sends {name_of_packet(packet)}; the file says {tunnel.encapsulation}"
        return Misfit(Cause.BALANCER_SENDS_OTHER, saw, _other(packet, way, evidence))
    if found := _form(packet, way):
        return found
    local = local_of(way)
    if packet.destination == local:
        return None
    return Misfit(
        Cause.BALANCER_SENDS_ELSEWHERE,
        f"{packet.source} sends to {packet.destination}; the tunnel takes what comes to {local}",
        f'write local = "{packet.destination}" in [[tunnel]] {tunnel.name}, or correct the load balancer',
    )


def _other(packet: CapturedPacket, way: Way, evidence: Evidence) -> str:
    """What to write where another encapsulation is sent."""
    tunnel, words = way.tunnel, _words(packet, way.tunnel)
    if not packet.encapsulation:
        return f"have the load balancer send {tunnel.encapsulation}"
    if any(evidence.meant_for(good, tunnel) for good in fitting(way, evidence)):
        return f"add a [[tunnel]] with {words} for it, or correct the load balancer"
    less = ["port"] if tunnel.port is not None and packet.port is None else []
    if packet.encapsulation != "gre":
        less += [word for word, said in (("key", tunnel.key is not None), ("checksum", tunnel.checksum)) if said]
    without = f" (without {' and '.join(less)})" if less else ""
    return f"write {words} in [[tunnel]] {tunnel.name}{without}, or correct the load balancer"


def _words(packet: CapturedPacket, tunnel: Tunnel) -> str:
    """How the file declares what was sent."""
    words = [f'encapsulation = "{packet.encapsulation or tunnel.encapsulation}"']
    if packet.encapsulation in ("gue", "fou"):
        words.append(f"port = {packet.port}")
    if packet.key is not None:
        words.append(f"key = {packet.key}")
    if packet.checksum:
        words.append("checksum = true")
    return " and ".join(words)


def _form(packet: CapturedPacket, way: Way) -> Misfit | None:
    """In what the headers of the same encapsulation differ, addresses left aside."""
    tunnel, here = way.tunnel, f"in [[tunnel]] {way.tunnel.name}"
    if packet.port != tunnel.port:
        return Misfit(
            Cause.BALANCER_SENDS_PORT,
            f"{packet.source} sends {name_of_packet(packet)}; the file says port {tunnel.port}",
            f"write port = {packet.port} {here}, or correct the load balancer",
        )
    if packet.encapsulation != "gre" or packet.later:
        return None
    if packet.key != tunnel.key:
        sent = "without a key" if packet.key is None else f"with key {packet.key}"
        file = "declares no key" if tunnel.key is None else f"declares key {tunnel.key}"
        remedy = f"remove the key {here}" if packet.key is None else f"write key = {packet.key} {here}"
        saw = f"{packet.source} sends {name_of(tunnel)} {sent}; the file {file}"
        return Misfit(Cause.BALANCER_SENDS_KEY, saw, remedy)
    if packet.checksum != tunnel.checksum:
        sent, file = ("with", "none") if packet.checksum else ("without", "one")
        return Misfit(
            Cause.BALANCER_SENDS_CHECKSUM,
            f"{packet.source} sends {name_of(tunnel)} {sent} a checksum; the file declares {file}",
            f"write checksum = {str(packet.checksum).lower()} {here}",
        )
    return None
