"""
What another program makes of the packets that are made here byte by byte: the self-test's, and those of the lab's
balancers. scapy takes them apart, and puts the same bytes together again with lengths and checksums of its own.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from dsr_agent.state.local import LocalAddress
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip, Link, Tunnel
from dsr_agent.truth.probe import MarkedWay, Pair, Way, shot
from dsr_agent.tunnels import CARRIERS, carrier
from tests.lab import forge, vendors
from tests.lab.vendors import Made, version_of

HERE = {4: ip_address("10.3.0.11"), 6: ip_address("fd00:3::11")}
BALANCER = {4: ip_network("10.2.0.5/32"), 6: ip_network("fd00:2::5/128")}
VIP = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8:f::10")}
CLIENT = {4: ip_address("203.0.113.1"), 6: ip_address("2001:db8::1")}
LAYER = {4: IP, 6: IPv6}
PAYLOAD = b"d" * 28


def read(data: bytes) -> Any:
    """Taken apart; lengths and checksums are worked out anew, and the bytes have to come to the same."""
    found = LAYER[version_of(data)](data)
    bare = found.copy()
    layer: Any = bare
    while not isinstance(layer, Raw) and layer:
        without = isinstance(layer, UDP) and layer.chksum == 0
        for name in {"len", "plen", "ihl", *(() if without else ("chksum",))} & layer.fields.keys():
            delattr(layer, name)
        layer = layer.payload
    assert bytes(bare) == data
    return found


def ends(layer: Packet) -> tuple[Ip, Ip]:
    return ip_address(layer.src), ip_address(layer.dst)


def request(found: Any, version: int) -> None:
    """The packet inside is the client's request, whole."""
    assert isinstance(found, LAYER[version])
    assert ends(found) == (CLIENT[version], VIP[version])
    assert (found[UDP].dport, bytes(found[UDP].payload)) == (40000, PAYLOAD)


def tunnel(encapsulation: str, outer: int, key: int | None = None, *, checksum: bool = False) -> Tunnel:
    port = 6080 if encapsulation in ("gue", "fou") else None
    local, senders = LocalAddress(HERE[outer]), (BALANCER[outer],)
    return Tunnel("t", encapsulation, local, senders, key, checksum, outer, port)


EVERY = [
    *(tunnel(encapsulation, outer) for encapsulation, outer in CARRIERS),
    *(tunnel("gre", outer, 7, checksum=checksum) for outer in (4, 6) for checksum in (False, True)),
    *(tunnel("gre", outer, checksum=True) for outer in (4, 6)),
]


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("through", EVERY, ids=lambda each: f"{each.encapsulation}-{each.version}-{each.key}")
def test_the_self_test_sends_what_a_balancer_would(through: Tunnel, inner: int) -> None:
    means = carrier(through)
    outer = means.outer(through, HERE[through.version], means.kinds[0])
    way = Way(through, Link("t", means.kinds[0], up=True, group=LINK_GROUP, outer=outer))
    data = shot(Pair(VIP[inner], "t"), way, CLIENT[inner]).wrap(40000, PAYLOAD)

    found = read(data)
    assert ends(found) == (BALANCER[through.version].network_address, HERE[through.version])
    behind = found.payload
    if through.encapsulation == "gre":
        assert (bool(behind.chksum_present), behind.key if behind.key_present else None) == (
            through.checksum,
            through.key,
        )
        behind = behind.payload
    elif through.port:
        assert (behind.dport, behind.chksum) == (6080, 0)
        behind = unwrapped(behind, inner, gue=through.encapsulation == "gue")
    request(behind, inner)


def unwrapped(datagram: Any, version: int, *, gue: bool) -> Packet:
    """What is in a UDP datagram, behind GUE's four bytes and as many words as they say."""
    data = bytes(datagram.payload)
    if gue:
        first, protocol, flags = struct.unpack(">BBH", data[:4])
        assert (first >> 5, protocol, flags) == (0, {4: 4, 6: 41}[version], 0)
        data = data[4 + 4 * (first & 31) :]
    made: Packet = read(data)
    return made


@pytest.mark.parametrize("version", [4, 6])
def test_the_self_test_marks_as_a_balancer_would(version: int) -> None:
    way = MarkedWay(Tunnel("t", "dscp", LocalAddress(HERE[version])), HERE, {VIP[version]: 7})
    found = read(shot(Pair(VIP[version], "t"), way, CLIENT[version]).wrap(40000, PAYLOAD))

    assert ends(found) == (CLIENT[version], HERE[version])
    assert (found.tos if version == 4 else found.tc) == 7 << 2


MADE = {
    "appliance ipip": vendors.appliance_ipip,
    "appliance gre": vendors.appliance_gre,
    "ipip with a code point": vendors.coded_ipip(7),
    "fou": vendors.fou,
    "glb": vendors.glb,
    "gue with private data": vendors.private_gue,
    "katran ipip": vendors.katran_ipip,
    "katran gue": vendors.katran_gue,
}


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("name", MADE)
def test_the_labs_balancers_send_what_they_say(name: str, outer: int, inner: int) -> None:
    made: Made = MADE[name](outer)
    client, vip = str(CLIENT[inner]), str(VIP[inner])
    datagram = forge.udp(client, vip, 40000, PAYLOAD)
    packet = (forge.ip4 if inner == 4 else forge.ip6)(client, vip, forge.UDP, datagram)

    found = read(made.wrap(packet))
    assert ends(found)[1] == HERE[outer]
    behind = found.payload
    if isinstance(behind, GRE):
        assert (behind.chksum_present, behind.key_present, behind.seqnum_present) == (0, 0, 0)
        behind = behind.payload
    elif isinstance(behind, UDP):
        behind = unwrapped(behind, inner, gue=name in ("glb", "gue with private data"))
    request(behind, inner)
