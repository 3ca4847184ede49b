"""
What the guard promises, said once more without a single rule: which packets get in, and what the rest is counted as.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from dsr_agent.guard.outer import Entrance, counted_in
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.ruleset import Request
from dsr_agent.guard.sets import element, joined
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip, Network
from tests.unit.guard.interpreter import Place
from tests.unit.guard.packets import GRE, ICMP, ICMPV6, IPIP, SIX_IN_FOUR, TCP, UDP, Packet

NOBODYS = [
    ip_network(text)
    for text in ("0.0.0.0/32", "127.0.0.1/32", "224.0.0.0/3", "::/128", "::1/128", "ff00::/8", "fe80::/10")
] + [ip_network("::ffff:0:0/96")]


@dataclass(frozen=True, slots=True)
class Expected:
    """What is to become of a packet: where it is counted, or why it is refused; neither: it is not our business."""

    counted: Place | None = None
    reason: RefusalReason | None = None


def expected(request: Request, packet: Packet) -> Expected:
    """What is to become of *packet* on arrival, and when it has come out of a tunnel."""
    if packet.iifgroup == LINK_GROUP:
        return _out_of_a_tunnel(request, packet)
    locals_ = {entrance.local for entrance in request.entrances}
    if packet.protocol == UDP:
        ports = {(entrance.local, entrance.port) for entrance in request.entrances if entrance.port} | {*request.shut}
        if packet.later or len(packet.transport) < 4 or (packet.destination, _port(packet)) not in ports:
            return Expected()
    elif packet.protocol not in (IPIP, SIX_IN_FOUR, GRE) or packet.destination not in locals_:
        return Expected()
    for entrance in request.entrances:
        if _takes(entrance, packet) and (place := _sender(entrance, packet.source)):
            return Expected(counted=place)
    return Expected(reason=_why_not(request, packet))


# --- the outer header -------------------------------------------------------------------------------------------------


def _takes(entrance: Entrance, packet: Packet) -> bool:
    """Whether *packet* is wrapped as *entrance* declares."""
    if (entrance.local, entrance.protocol) != (packet.destination, packet.protocol):
        return False
    if packet.protocol == UDP:
        return entrance.port == _port(packet) and _is_for(entrance, packet.transport[8:])
    if packet.protocol != GRE or packet.later:
        return True
    header = packet.transport
    with_checksum, with_key = header[:1] and header[0] & 0x80, header[:1] and header[0] & 0x20
    if len(header) < 4 or header[2:4] not in (b"\x08\x00", b"\x86\xdd"):
        return False
    others = int.from_bytes(header[:2], "big") & ~(0x8000 | 0x2000 | 0x1000)
    if others or bool(with_checksum) != entrance.checksum or bool(with_key) != (entrance.key is not None):
        return False
    at = 8 if entrance.checksum else 4
    return entrance.key is None or header[at : at + 4] == entrance.key.to_bytes(4, "big")


def _port(packet: Packet) -> int:
    return int.from_bytes(packet.transport[2:4], "big")


def _is_for(entrance: Entrance, data: bytes) -> bool:
    """Whether what follows UDP is as declared: an IP header, or GUE in variant 0, without control bit, around IP."""
    if entrance.direct:
        return data[:1] != b"" and data[0] >> 4 in (4, 6)
    return len(data) >= 2 and data[0] >> 5 == 0 and data[1] in (IPIP, SIX_IN_FOUR)


def _sender(entrance: Entrance, source: Ip) -> Place | None:
    """Where *source* is counted: at the narrowest of what is declared and has it."""
    if not entrance.senders:
        return counted_in(entrance.name), ""
    if not (declared := [network for network in entrance.senders if source in network]):
        return None
    narrowest = max(declared, key=lambda network: network.prefixlen)
    return counted_in(entrance.name, narrowest.prefixlen, narrowest.version), element(narrowest.network_address)


def _why_not(request: Request, packet: Packet) -> RefusalReason:
    here = [entrance for entrance in request.entrances if _same_way(entrance, packet)]
    if any(_sender(entrance, packet.source) for entrance in here):
        return RefusalReason.GRE_HEADER if packet.protocol == GRE else RefusalReason.UDP_HEADER
    declared = [network for entrance in request.entrances for network in entrance.senders]
    return RefusalReason.PROTOCOL if any(packet.source in network for network in declared) else RefusalReason.SOURCE


def _same_way(entrance: Entrance, packet: Packet) -> bool:
    """Whether *packet* comes as those of *entrance* do, but for what its header says."""
    if (entrance.local, entrance.protocol) != (packet.destination, packet.protocol):
        return False
    return packet.protocol == GRE or (packet.protocol == UDP and entrance.port == _port(packet))


# --- what is inside ---------------------------------------------------------------------------------------------------


def _out_of_a_tunnel(request: Request, packet: Packet) -> Expected:
    reached = [target for target in request.vips if target.ip == packet.destination]
    reached = [target for target in reached if not target.links or packet.iifname in target.links]
    if not reached:
        return Expected(reason=RefusalReason.INNER_DESTINATION)
    hosts = {*request.own, *(target.ip for target in request.vips)}
    if packet.source in hosts or any(_inside(packet.source, bad) for bad in NOBODYS):
        return Expected(reason=RefusalReason.INNER_SOURCE)
    if packet.protocol in (IPIP, SIX_IN_FOUR, GRE):
        return Expected(reason=RefusalReason.NESTED)
    [target] = reached
    if target.services and not any(_serves(service, packet) for service in ("", *target.services)):
        return Expected(reason=RefusalReason.SERVICE)
    at = "_".join(["bound"] * bool(target.links) + ["served"] * bool(target.services)) or "vips"
    counted = joined(packet.iifname, str(target.ip)) if target.links else element(target.ip)
    return Expected(counted=(f"{at}{packet.version}", counted))


def _serves(service: str, packet: Packet) -> bool:
    """Whether *packet* is for *service*; ICMP and later pieces are for every one ("")."""
    if not service:
        return packet.later or packet.protocol == (ICMP if packet.version == 4 else ICMPV6)
    transport, port = service.split("/")
    if packet.protocol != {"tcp": TCP, "udp": UDP}[transport] or len(packet.transport) < 4:
        return False
    return int.from_bytes(packet.transport[2:4], "big") == int(port)


def _inside(ip: Ip, network: Network) -> bool:
    return ip.version == network.version and ip in network
