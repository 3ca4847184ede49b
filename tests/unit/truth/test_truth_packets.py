"""The self-test's datagrams, byte by byte: against packets written down, and against a decoder of its own."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.state.checksum import internet_checksum
from dsr_agent.state.local import LocalAddress
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip, Link, Tunnel
from dsr_agent.state.probe import ANYBODY
from dsr_agent.truth.packets import udp
from dsr_agent.truth.probe import Pair, Way, inner_size, shot
from dsr_agent.tunnels import carrier

HERE = IPv4Address("10.3.0.11")
VIP4, VIP6 = ip_address("198.51.100.10"), ip_address("2001:db8:f::10")
CLIENT = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}


def way(encapsulation: str, *balancers: str, key: int | None = None, checksum: bool = False) -> Way:
    """A tunnel of the file, and its link as it has to be."""
    networks = tuple(map(IPv4Network, balancers))
    tunnel = Tunnel("t", encapsulation, LocalAddress(HERE), networks, key, checksum)
    means = carrier(tunnel)
    kind = means.kinds[0]
    return Way(tunnel, Link("t", kind, up=True, group=LINK_GROUP, outer=means.outer(tunnel, HERE, kind)))


def packet(found: Way, vip: Ip, port: int = 40000, payload: bytes = b"hello") -> bytes:
    """What is sent."""
    return shot(Pair(vip, "t"), found, CLIENT[vip.version]).wrap(port, payload)


class Decoded(NamedTuple):
    """A datagram taken to pieces; `decode` refuses one whose sums or lengths are wrong."""

    sender: Ip
    receiver: Ip
    key: int | None
    checked: bool
    source: Ip
    destination: Ip
    port: int
    payload: bytes


def _ipv4(data: bytes) -> tuple[int, Ip, Ip, bytes]:
    assert (data[0], internet_checksum(data[:20]), int.from_bytes(data[2:4], "big")) == (0x45, 0, len(data))
    assert data[8] == 1, "forwarded by nobody"
    return data[9], ip_address(data[12:16]), ip_address(data[16:20]), data[20:]


def _ipv6(data: bytes) -> tuple[int, Ip, Ip, bytes]:
    assert (data[0] >> 4, int.from_bytes(data[4:6], "big") + 40, data[7]) == (6, len(data), 1)
    return data[6], ip_address(data[8:24]), ip_address(data[24:40]), data[40:]


def decode(data: bytes) -> Decoded:
    """Written from the RFCs, and not from the code under test."""
    protocol, sender, receiver, rest = _ipv4(data)
    key, checked, inner = None, False, _ipv4
    if protocol == 47:
        flags, ethertype = struct.unpack(">HH", rest[:4])
        assert flags & ~0xA000 == 0
        checked, at = bool(flags & 0x8000), 4
        if checked:
            assert internet_checksum(rest) == 0
            at += 4
        if flags & 0x2000:
            key, at = int.from_bytes(rest[at : at + 4], "big"), at + 4
        inner, rest = {0x0800: _ipv4, 0x86DD: _ipv6}[ethertype], rest[at:]
    else:
        assert protocol == 4
    kind, source, destination, datagram = inner(rest)
    assert kind == 17
    _, port, length, total = struct.unpack(">HHHH", datagram[:8])
    assert length == len(datagram)
    assert total != 0, "IPv6 takes no datagram without a checksum"
    pseudo = source.packed + destination.packed + struct.pack(">HH", length, kind)
    assert internet_checksum(pseudo + datagram) == 0
    return Decoded(sender, receiver, key, checked, source, destination, port, datagram[8:])


@pytest.mark.parametrize(
    ("found", "vip"),
    [
        (way("ipip", "10.2.0.5"), VIP4),
        (way("gre", "10.2.0.5"), VIP4),
        (way("gre", "10.2.0.5"), VIP6),
        (way("gre", "10.2.0.5", key=7), VIP4),
        (way("gre", "10.2.0.5", key=0, checksum=True), VIP6),
        (way("gre", "10.2.0.5", checksum=True), VIP4),
    ],
)
def test_a_datagram_is_wrapped_as_the_tunnel_is_declared(found: Way, vip: Ip) -> None:
    seen = decode(packet(found, vip))
    assert seen == Decoded(
        IPv4Address("10.2.0.5"),
        HERE,
        found.tunnel.key,
        found.tunnel.checksum,
        CLIENT[vip.version],
        vip,
        40000,
        b"hello",
    )


@given(st.binary(max_size=40), st.integers(1, 65535), st.integers(0, 2**32 - 1), st.booleans())
def test_sums_and_lengths_are_right_whatever_is_in_it(payload: bytes, port: int, key: int, checksum: bool) -> None:
    for vip in (VIP4, VIP6):
        seen = decode(packet(way("gre", "10.2.0.5", key=key, checksum=checksum), vip, port, payload))
        assert (seen.port, seen.payload, seen.key) == (port, payload, key)


def test_the_checksum_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert internet_checksum(b"\x01") == 0xFEFF


def test_bytes_that_are_known() -> None:
    """The GRE header with key and checksum as Linux sends it, and the IPIP packet as a whole."""
    keyed = packet(way("gre", "10.2.0.5", key=7), VIP4)
    assert keyed[20:28].hex() == "2000080000000007"
    assert packet(way("gre", "10.2.0.5"), VIP6)[20:24].hex() == "000086dd"
    both = packet(way("gre", "10.2.0.5", key=7, checksum=True), VIP4)
    assert both[20:24].hex() == "a0000800"
    assert both[26:32].hex() == "000000000007"
    whole = packet(way("ipip", "10.2.0.5"), VIP4)
    assert whole[:10].hex() == "45000035000040000104"
    assert whole[12:20].hex() == "0a0200050a03000b"
    assert whole[20:30].hex() == "45000021000040000111"


@pytest.mark.parametrize(
    ("balancers", "sender"),
    [
        (["10.2.0.5"], "10.2.0.5"),
        (["10.2.0.4/31"], "10.2.0.4"),
        (["10.2.0.0/24"], "10.2.0.1"),
        (["10.2.0.0/24", "10.2.0.5"], "10.2.0.5"),
        (["0.0.0.0/1"], "1.0.0.1"),
        (["128.0.0.0/1"], "128.0.0.1"),
        (["0.0.0.0/1", "10.2.0.5"], "10.2.0.5"),
        ([], str(ANYBODY[4])),
    ],
)
def test_who_is_said_to_have_wrapped_it(balancers: list[str], sender: str) -> None:
    assert str(decode(packet(way("ipip", *balancers), VIP4)).sender) == sender


def test_how_much_of_it_comes_out_of_the_tunnel() -> None:
    for vip in (VIP4, VIP6):
        inner = udp(CLIENT[vip.version], vip, 1, b"dsr-agent self-test " + bytes(8))
        assert len(inner) == inner_size(vip.version)
