"""What is read of packets as they reach the card."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.kernel.capture_filter import Sought
from dsr_agent.kernel.capture_filter import arriving as program
from dsr_agent.kernel.headers import Leaving, arriving, leaving
from dsr_agent.state.local import LocalAddress
from dsr_agent.state.model import Tunnel
from dsr_agent.truth.packets import ipv4, udp
from dsr_agent.tunnels import carrier
from tests.unit.bpf import taken

BALANCER, HERE = IPv4Address("10.9.0.5"), IPv4Address("10.0.0.2")
CLIENT, VIP = IPv4Address("203.0.113.7"), IPv4Address("192.0.2.10")
CLIENT6, VIP6 = ip_address("2001:db8:c::7"), ip_address("2001:db8:f::10")


def wrapped(encapsulation: str, inner: bytes, version: int = 4, **header: Any) -> bytes:
    """As a load balancer sends it."""
    tunnel = Tunnel("t", encapsulation, LocalAddress(HERE), **header)
    means = carrier(tunnel)
    return ipv4(BALANCER, HERE, means.protocol(version), means.wrap(tunnel, version, inner))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("key", [None, 0, 7, 0xFFFFFFFF])
def test_gre_is_read_with_its_key_and_whether_it_has_a_checksum(key: int | None, checksum: bool) -> None:
    found = arriving("eth0", wrapped("gre", udp(CLIENT6, VIP6, 1812, b"x"), 6, key=key, checksum=checksum))
    assert found
    assert (found.source, found.destination, found.protocol, found.link) == (BALANCER, HERE, 47, "eth0")
    assert (found.key, found.checksum, found.wrapped) == (key, checksum, True)
    assert found.inner
    assert (found.inner.source, found.inner.destination, found.inner.service) == (CLIENT6, VIP6, "udp/1812")


def test_ipip_is_read_with_what_is_inside() -> None:
    inner = udp(CLIENT, VIP, 1812, b"x" * 500)
    found = arriving("eth0", wrapped("ipip", inner))
    assert found
    assert found.inner
    assert (found.protocol, found.length, found.inner.length) == (4, 20 + len(inner), len(inner))
    assert (found.inner.source, found.inner.destination, found.inner.dont_fragment) == (CLIENT, VIP, True)


@pytest.mark.parametrize(
    ("header", "encapsulation"),
    [(b"", "fou"), (b"\0\4\0\0", "gue"), (b"\1\4\0\0opti", "gue")],
    ids=["FOU", "GUE", "GUE with options"],
)
def test_what_is_wrapped_in_udp_is_read(header: bytes, encapsulation: str) -> None:
    found = arriving("eth0", udp(BALANCER, HERE, 6080, header + udp(CLIENT, VIP, 1812, b"x")))
    assert found
    assert found.inner
    assert (found.wrapped, found.inner.destination, found.inner.service) == (False, VIP, "udp/1812")
    assert (found.encapsulation, found.port, found.overhead) == (encapsulation, 6080, 28 + len(header))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x20\4\0\0" + udp(CLIENT, VIP, 1812, b"x"),
        b"\0\x11\0\0" + udp(CLIENT, VIP, 1812, b"x"),
        b"\0\4\0\0" + udp(CLIENT, VIP, 1812, b"x") + b"more",
        udp(CLIENT, VIP, 1812, b"x")[:-1],
        b"EHLO, somebody who is longer than an IP header and much like one",
        b"\x80\4\0\0" + udp(CLIENT, VIP, 1812, b"x"),
    ],
    ids=["control message", "no IP packet", "longer", "shorter", "something else", "another variant"],
)
def test_what_only_begins_alike_is_no_packet_in_udp(payload: bytes) -> None:
    found = arriving("eth0", udp(BALANCER, HERE, 6080, payload))
    assert found
    assert (found.inner, found.encapsulation, found.port, found.service) == (None, "", 6080, "udp/6080")


def test_what_is_not_wrapped_is_told_as_that() -> None:
    found = arriving("eth0", udp(BALANCER, HERE, 53, b""))
    assert found
    assert (found.wrapped, found.inner, found.protocol) == (False, None, 17)


@pytest.mark.parametrize(("cut", "fragment", "later"), [(0x4000, False, False), (0x2000, True, False), (7, True, True)])
def test_pieces_are_known(cut: int, fragment: bool, later: bool) -> None:
    """A later one has no header to be read."""
    packet = bytearray(wrapped("gre", udp(CLIENT, VIP, 1812, b""), key=7))
    struct.pack_into(">H", packet, 6, cut)
    found = arriving("eth0", bytes(packet))
    assert found
    assert (found.fragment, found.later, found.key) == (fragment, later, None if later else 7)
    assert (found.inner is None) is later


def test_datagrams_that_leave_are_read() -> None:
    """The port that they leave from, which the self-test's datagrams have as "discard"."""
    assert leaving("eth0", udp(VIP, CLIENT, 99, b"")) == Leaving(VIP, CLIENT, 9, "eth0")
    assert leaving("eth0", udp(VIP6, CLIENT6, 99, b"")) == Leaving(VIP6, CLIENT6, 9, "eth0")
    assert leaving("eth0", ipv4(VIP, CLIENT, 6, b"1234")) is None


# --- IPv6 outside, each byte by hand ----------------------------------------------------------------------------------

BALANCER6, HERE6 = ip_address("2001:db8:b::5"), ip_address("2001:db8:a::2")
# RFC 2473, 5.1: destination options (8 bytes); tunnel encapsulation limit (4), 1 byte long, 4; PadN, 1 byte. As ip6tnl.
LIMIT = b"\0\x04\x01\x04\x01\x01\x00"
# RFC 768, 8200: from 203.0.113.7 to 192.0.2.10, port 1812, no payload; and an IPv6 packet alike. No checksums.
INNER4 = bytes.fromhex("4500001c0000400040110000 cb007107 c000020a 1000 0714 0008 0000")
INNER6 = bytes.fromhex("60000000 0008 11 40 20010db8000c00000000000000000007 20010db8000f00000000000000000010")
INNER6 += bytes.fromhex("1000 0714 0008 0000")
INNERS = {4: (INNER4, VIP), 6: (INNER6, VIP6)}


def outer6(following: int, payload: bytes, code: int = 0) -> bytes:
    """RFC 8200, 3."""
    front = struct.pack(">IHBB", 0x60000000 | code << 22, len(payload), following, 64)
    return front + BALANCER6.packed + HERE6.packed + payload


def in_udp(payload: bytes, port: int = 6080) -> bytes:
    """RFC 768, without a checksum (RFC 6935)."""
    return struct.pack(">HHHH", 0xC000, port, 8 + len(payload), 0) + payload


def forms(version: int) -> dict[str, tuple[int, bytes, str, int]]:
    """What follows the outer header: its number, the bytes, the encapsulation, and how much stands around."""
    inner = INNERS[version][0]
    number, ethertype = (4, b"\x08\x00") if version == 4 else (41, b"\x86\xdd")
    return {
        "ipip": (number, inner, "ipip", 0),
        "gre": (47, b"\0\0" + ethertype + inner, "gre", 4),
        "gre with all": (47, b"\xb0\0" + ethertype + b"\x12\x34\0\0" + b"\0\0\0\7" + bytes(4) + inner, "gre", 16),
        "gue": (17, in_udp(b"\0" + bytes([number]) + b"\0\0" + inner), "gue", 12),
        "gue with fields": (17, in_udp(b"\2" + bytes([number]) + b"\0\0" + bytes(8) + inner), "gue", 20),
        "fou": (17, in_udp(inner), "fou", 8),
    }


@pytest.mark.parametrize("extension", ["", "limit", "hop-by-hop", "both", "whole fragment"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("form", forms(4))
def test_every_form_over_ipv6_is_read_whatever_stands_before_it(form: str, version: int, extension: str) -> None:
    number, payload, encapsulation, around = forms(version)[form]
    extra = {
        "": (number, b""),
        "limit": (60, bytes([number]) + LIMIT),
        "hop-by-hop": (0, bytes([number]) + b"\0\1\4\0\0\0\0"),
        "both": (0, b"\x3c\1" + b"\1\x0c" + b"\xff" * 12 + bytes([number]) + LIMIT),
        "whole fragment": (44, bytes([number]) + b"\0\0\0\1\2\3\4"),
    }[extension]
    found = arriving("eth0", outer6(extra[0], extra[1] + payload, code=7))
    assert found
    assert (found.source, found.destination, found.version) == (BALANCER6, HERE6, 6)
    assert (found.protocol, found.encapsulation, found.code) == (number, encapsulation, 7)
    assert (found.fragment, found.later) == (False, False)
    assert found.inner
    assert (found.inner.destination, found.inner.service) == (INNERS[version][1], "udp/1812")
    assert found.overhead == 40 + len(extra[1]) + around
    assert found.port == (6080 if number == 17 else None)
    if form == "gre with all":
        assert (found.key, found.checksum) == (7, True)


def test_pieces_over_ipv6_are_known() -> None:
    """As Linux cuts them: the options that follow the fragment header are in the first piece only."""
    first = arriving("eth0", outer6(44, b"\x3c\0\0\1\0\0\0\1" + b"\4" + LIMIT + INNER4))
    assert first
    assert (first.protocol, first.fragment, first.later, first.overhead) == (4, True, False, None)
    assert first.inner
    second = arriving("eth0", outer6(44, b"\4\0\0\x08\0\0\0\1" + bytes(40)))
    assert second
    assert (second.protocol, second.fragment, second.later, second.inner) == (4, True, True, None)


def test_extensions_without_end_are_not_followed() -> None:
    assert arriving("eth0", outer6(0, bytes(200)))


# --- which packets are taken, by the program that the kernel is given -------------------------------------------------


SOUGHT = Sought(
    (ip_network("10.9.0.5/32"), ip_network("10.8.0.0/15"), ip_network("2001:db8:a::/47"), ip_network("2001:db8:9::9")),
    doors=(6080, 5555),
    marked_at=(HERE, HERE6),
    plain=(VIP, VIP6),
)
STRANGER, STRANGER6 = IPv4Address("10.1.0.9"), ip_address("2001:db8:99::9")


def sent4(
    protocol: int, payload: bytes, source: Any = STRANGER, to: Any = HERE, *, tos: int = 0, cut: int = 0
) -> bytes:
    """RFC 791, with four bytes of options."""
    front = struct.pack(">BBHHHBBH", 0x46, tos, 24 + len(payload), 0, cut, 64, protocol, 0)
    return b"".join((front, source.packed, to.packed, bytes(4), payload))


def sent6(following: int, payload: bytes, source: Any = STRANGER6, to: Any = HERE6, code: int = 0) -> bytes:
    front = struct.pack(">IHBB", 0x60000000 | code << 22, len(payload), following, 64)
    return b"".join((front, source.packed, to.packed, payload))


GUE = in_udp(b"\0\4\0\0" + INNER4)
DNS = in_udp(b"nothing that is wrapped", 53)
FOUR_LIMITS = b"\x3c" + LIMIT + b"\x3c" + LIMIT + b"\x3c" + LIMIT + b"\4" + LIMIT
ASKED: list[tuple[str, bytes, bool]] = [
    ("ipip", sent4(4, INNER4), True),
    ("6in4", sent4(41, INNER6), True),
    ("gre, a later piece", sent4(47, bytes(8), cut=5), True),
    ("tcp of a stranger", sent4(6, bytes(20)), False),
    ("tcp of a balancer", sent4(6, bytes(20), BALANCER), True),
    ("tcp from the prefix", sent4(6, bytes(20), IPv4Address("10.9.255.1")), True),
    ("tcp beside the prefix", sent4(6, bytes(20), IPv4Address("10.10.0.1")), False),
    ("gue of a stranger", sent4(17, GUE), True),
    ("fou at the other port", sent4(17, in_udp(INNER4, 5555)), True),
    ("dns of a stranger", sent4(17, DNS), False),
    ("a later piece of udp", sent4(17, GUE, cut=5), False),
    ("marked", sent4(17, DNS, tos=28), True),
    ("marked to another address", sent4(17, DNS, to=IPv4Address("10.0.0.3"), tos=28), False),
    ("ECN alone", sent4(17, DNS, tos=3), False),
    ("to a VIP as it is", sent4(6, bytes(20), to=VIP), True),
    ("ipip over IPv6", sent6(4, INNER4), True),
    ("ipip behind a limit", sent6(60, b"\4" + LIMIT + INNER4), True),
    ("gre behind hop-by-hop and a limit", sent6(0, b"\x3c\1" + bytes(14) + b"\x2f" + LIMIT + bytes(4)), True),
    ("a first piece", sent6(44, b"\x3c\0\0\1\0\0\0\1\x29" + LIMIT + INNER6), True),
    ("a later piece", sent6(44, b"\x2f\0\0\x08\0\0\0\1" + bytes(40)), True),
    ("a later piece of udp over IPv6", sent6(44, b"\x11\0\0\x08\0\0\0\1" + GUE), False),
    ("behind more than is seen through", sent6(60, FOUR_LIMITS + INNER4), False),
    ("tcp of a stranger over IPv6", sent6(6, bytes(20)), False),
    ("tcp from a prefix over IPv6", sent6(6, bytes(20), ip_address("2001:db8:a::77")), True),
    ("tcp beside it", sent6(6, bytes(20), ip_address("2001:db8:c::77")), False),
    ("tcp of one over IPv6", sent6(6, bytes(20), ip_address("2001:db8:9::9")), True),
    ("and its neighbour", sent6(6, bytes(20), ip_address("2001:db8:9::a")), False),
    ("a balancer's options", sent6(60, b"\x3a" + LIMIT + bytes(8), BALANCER6), True),
    ("gue over IPv6", sent6(17, GUE), True),
    ("gue behind options", sent6(0, b"\x11\0\1\4\0\0\0\0" + GUE), True),
    ("dns of a stranger over IPv6", sent6(17, DNS), False),
    ("marked over IPv6", sent6(6, bytes(20), code=7), True),
    ("not marked over IPv6", sent6(6, bytes(20)), False),
    ("to a VIP as it is over IPv6", sent6(6, bytes(20), to=VIP6), True),
    ("neighbours' solicitations", sent6(58, bytes(24)), False),
]


@pytest.mark.parametrize(("packet", "wanted"), [case[1:] for case in ASKED], ids=[case[0] for case in ASKED])
def test_only_what_is_of_use_is_taken(packet: bytes, wanted: bool) -> None:
    assert taken(program(packet[0] >> 4, SOUGHT), packet) is wanted


def test_without_doors_and_addresses_only_what_is_wrapped() -> None:
    for version, wrapped_packet, other in (
        (4, sent4(4, INNER4), sent4(17, GUE)),
        (6, sent6(4, INNER4), sent6(17, GUE)),
    ):
        assert taken(program(version, Sought()), wrapped_packet)
        assert not taken(program(version, Sought()), other)


def test_a_program_is_never_longer_than_the_kernel_takes() -> None:
    ips = tuple(ip_address(0x20010DB8 << 96 | number << 40 | number) for number in range(5000))
    senders = tuple(ip_network((ip, 120), strict=False) for ip in ips)
    for version in (4, 6):
        made = program(version, Sought(senders, tuple(range(1, 5000)), ips, ips))
        assert len(made) <= 4096
        assert all(0 <= each[1] < 256 and 0 <= each[2] < 256 for each in made)


# --- and nothing is a stumbling block ---------------------------------------------------------------------------------


WHOLE = [
    wrapped("gre", udp(CLIENT6, VIP6, 1812, b"x"), 6, key=7, checksum=True),
    wrapped("gre", udp(CLIENT, VIP, 1812, b"x")),
    wrapped("ipip", udp(CLIENT, VIP, 1812, b"x")),
    outer6(60, b"\x11" + LIMIT + GUE),
    outer6(44, b"\x2f\0\0\1\0\0\0\1" + b"\xb0\0\x86\xdd" + bytes(12) + INNER6),
]


@given(st.one_of(st.binary(max_size=120), st.sampled_from(WHOLE)))
def test_nothing_that_arrives_is_a_stumbling_block(data: bytes) -> None:
    for length in range(len(data) + 1):
        found = arriving("eth0", data[:length])
        assert found is None or length >= 20
    assert leaving("eth0", data) is None or len(data) >= 22


@given(st.sampled_from(WHOLE), st.integers(0, 80), st.integers(0, 255))
def test_nor_is_a_byte_that_is_another(whole: bytes, place: int, value: int) -> None:
    changed = bytearray(whole)
    changed[place % len(changed)] = value
    arriving("eth0", bytes(changed))
    leaving("eth0", bytes(changed))
