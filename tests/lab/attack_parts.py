"""
What `attacks` is made of: who is who, what can come of a packet, and packets inside packets. Pure.

The host, `HOST`, has the tunnels and VIPs of `CONFIG`, a second leg into a network behind it, and a service that
listens on all of its addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.lab import forge
from tests.lab.agent import tunnel, vip
from tests.lab.forge import ETH_IP6, FRAGMENT, GRE, IPIP, SIT, UDP, gre, ip4, ip6, udp

# --- who is who ---------------------------------------------------------------------------------------------------

HOST, HOST6 = "10.3.0.11", "fd00:3::11"
KEYED, SUMMED = "10.3.0.21", "10.3.0.22"  # more addresses of the host, each with a tunnel of its own
PEER = "10.3.0.12"  # the other real server
LEG, LEG6 = "10.5.0.1", "fd00:5::1"  # the host's address in the network behind it
BEHIND, BEHIND6 = "10.5.0.2", "fd00:5::2"  # somebody who lives there
ROUTED = "10.9.0.1"  # goes through the host into its tunnel, by a route that somebody added

BALANCER, ONLY_GRE, ONLY_IPIP = "10.2.0.5", "10.2.0.6", "10.2.0.7"
ATTACKER, NEIGHBOUR = "10.2.0.66", "10.2.0.4"
CLIENT, CLIENT6 = "10.1.0.2", "fd00:1::2"

VIP, VIP_GRE, VIP6, VIP_ELSEWHERE = "192.0.2.10", "192.0.2.11", "2001:db8:f::10", "192.0.2.20"
STRANGER, STRANGER6 = "192.0.2.77", "2001:db8:f::77"  # where VIPs are, but none

KEY, KEY_SUMMED = 7, 8
PORT = 7009  # a service of the host that listens everywhere

CONFIG = (
    tunnel("ipip", load_balancers=[BALANCER, ONLY_IPIP])
    + tunnel("gre", load_balancers=[BALANCER, ONLY_GRE])
    + tunnel("gre", name="dsr-keyed", local=KEYED, key=KEY)
    + tunnel("gre", name="dsr-summed", local=SUMMED, key=KEY_SUMMED, checksum=True)
    + "".join(vip(address) for address in (VIP, VIP_GRE, VIP6))
    + vip(VIP_ELSEWHERE, tunnels=["dsr-gre"])
)

# --- words --------------------------------------------------------------------------------------------------------

SOURCE, PROTOCOL, HEADER = "source", "protocol", "gre_header"
INNER_DESTINATION, INNER_SOURCE, NESTED = "inner_destination", "inner_source", "nested"
SERVICE, FORWARD = "service", "forward"
REASONS = (SOURCE, PROTOCOL, HEADER, INNER_DESTINATION, INNER_SOURCE, NESTED, SERVICE, FORWARD)

BY_KERNEL = "kernel"  # refused by the kernel before or behind the guard, with or without one
ALLOWED = "allowed"  # no attack: it shows that what is looked at would be seen
BESIDE = "beside"  # does not touch our tunnels: comes through a fallback device that somebody brought up

DELIVERED, FORWARDED, ANSWERED = "delivered", "forwarded", "answered"

MPLS, LABEL = 137, b"\0\0\x11\x40"

# What somebody has done to the host before.
FORWARDING, FALLBACKS = "forwarding", "fallbacks"

# What makes packets, or something to put into them, around a token.
Build = Callable[[bytes], Sequence[bytes]]
Data = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Attack:
    """
    What to send, and what comes of it.

    *today* is what is seen of it without a guard; *evidence* is a counter of the kernel that rises when the kernel
    refuses it by itself; *counted* is how many packets the guard counts, if that is not one for the attack.
    """

    name: str
    reason: str
    today: str
    build: Build
    host: str = ""
    evidence: str = ""
    counted: int = 1


# --- pieces -------------------------------------------------------------------------------------------------------


def inner(destination: str = VIP, source: str = CLIENT, *, port: int = PORT, ttl: int = 64) -> Build:
    """A UDP datagram to a service of the host, IPv4 or IPv6."""

    def build(token: bytes) -> list[bytes]:
        data = udp(source, destination, port, token)
        if ":" in destination:
            return [ip6(source, destination, UDP, data, hops=ttl)]
        return [ip4(source, destination, UDP, data, ttl=ttl)]

    return build


def ipip(packet: Build, source: str = BALANCER, destination: str = HOST, **header: int | bytes) -> Build:
    """Each packet in IPIP, from a load balancer if nobody else is named."""
    return lambda token: [ip4(source, destination, IPIP, one, **header) for one in packet(token)]  # type: ignore[arg-type]


def in_gre(packet: Build, source: str = BALANCER, destination: str = HOST, **header: int | bool | None) -> Build:
    """Each packet in GRE."""

    def build(token: bytes) -> list[bytes]:
        kind = {"kind": ETH_IP6} if packet(token)[0][0] >> 4 == 6 else {}
        return [
            ip4(source, destination, GRE, gre(one, **{**kind, **header}))  # type: ignore[arg-type]
            for one in packet(token)
        ]

    return build


def raw_gre(data: Data, destination: str = HOST, **header: int | bool | None) -> Build:
    """Something that is not IP in GRE."""
    return lambda token: [ip4(BALANCER, destination, GRE, gre(data(token), **header))]  # type: ignore[arg-type]


def sit(packet: Build, source: str = BALANCER, destination: str = HOST) -> Build:
    """Each IPv6 packet in IPv4."""
    return lambda token: [ip4(source, destination, SIT, one) for one in packet(token)]


def six(following: int, payload: Data, destination: str = VIP6) -> Build:
    """An IPv6 packet with something else than UDP in it."""
    return lambda token: [ip6(CLIENT6, destination, following, payload(token))]


def pieces(packet: Build, first: int, ident: int) -> Build:
    """The packet in two fragments."""
    return lambda token: forge.fragments(packet(token)[0], first, ident)


def one(packet: Build) -> Data:
    """The packet's bytes."""
    return lambda token: packet(token)[0]


def last(packet: Build) -> Build:
    """Only the last of the packets."""
    return lambda token: packet(token)[-1:]


def outer(protocol: int, data: Data, destination: str = HOST, *, options: bytes = b"") -> Build:
    """Something in an outer IPv4 packet of a load balancer."""
    return lambda token: [ip4(BALANCER, destination, protocol, data(token), options=options)]


RECORD_ROUTE = bytes([7, 11, 4]) + bytes(8)
SOURCE_ROUTE = bytes([131, 7, 4, 10, 5, 0, 2])  # to BEHIND next


def other(protocol: int, destination: str = VIP, lead: bytes = b"") -> Build:
    """An IPv4 packet with something else than UDP in it."""
    return lambda token: [ip4(CLIENT, destination, protocol, lead + token)]


def optioned(destination: str, options: bytes) -> Build:
    """A UDP datagram with IPv4 options."""
    return lambda token: [ip4(CLIENT, destination, UDP, udp(CLIENT, destination, PORT, token), options=options)]


def behind(header: int, destination: str) -> Build:
    """A UDP datagram in IPv6 behind an extension header."""
    wrap = forge.fragment6 if header == FRAGMENT else forge.options6
    return six(header, lambda token: wrap(UDP, udp(CLIENT6, destination, PORT, token)), destination)


def wrapped(header: Callable[[int, bytes], bytes], following: int, payload: Data) -> Data:
    """An IPv6 extension header, and what it says follows."""
    return lambda token: header(following, payload(token))


def pieces6(following: int, payload: Data, first: int, ident: int) -> Build:
    """An IPv6 packet to a VIP in two fragments."""

    def build(token: bytes) -> list[bytes]:
        whole = payload(token)
        start = forge.fragment6(following, whole[:first], more=True, ident=ident)
        end = forge.fragment6(following, whole[first:], offset=first, ident=ident)
        return [ip6(CLIENT6, VIP6, FRAGMENT, piece) for piece in (start, end)]

    return build


def changed(packet: Build, at: int, value: int) -> Build:
    """The packet with one byte changed."""

    def build(token: bytes) -> list[bytes]:
        (whole,) = packet(token)
        return [whole[:at] + bytes([value]) + whole[at + 1 :]]

    return build


def cut(packet: Build, length: int) -> Build:
    """The first bytes of the packet."""
    return lambda token: [packet(token)[0][:length]]


def behind_bytes(lead: bytes, data: Data) -> Data:
    """Something else first."""
    return lambda token: lead + data(token)


def frame(packet: Build) -> Data:
    """An Ethernet frame with the packet."""
    return behind_bytes(bytes(12) + b"\x08\x00", one(packet))


def deep(*hops: tuple[str, str], packet: Build) -> Build:
    """IPIP in IPIP in …, the outermost first."""
    for source, destination in reversed(hops):
        packet = ipip(packet, source, destination)
    return packet
