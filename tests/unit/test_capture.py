"""What is read of packets as they reach the card."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.kernel.capture import Leaving, arriving, leaving
from dsr_agent.state.local import LocalAddress
from dsr_agent.state.model import Tunnel
from dsr_agent.truth.packets import ipv4, udp
from dsr_agent.tunnels import carrier

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


@pytest.mark.parametrize("header", [b"", b"\0\4\0\0", b"\1\4\0\0opti"], ids=["FOU", "GUE", "GUE with options"])
def test_what_is_wrapped_in_udp_is_read(header: bytes) -> None:
    found = arriving("eth0", udp(BALANCER, HERE, 6080, header + udp(CLIENT, VIP, 1812, b"x")))
    assert found
    assert found.inner
    assert (found.wrapped, found.inner.destination, found.inner.service) == (False, VIP, "udp/1812")


def test_control_messages_of_gue_are_not() -> None:
    found = arriving("eth0", udp(BALANCER, HERE, 6080, b"\x20\4\0\0" + udp(CLIENT, VIP, 1812, b"x")))
    assert found
    assert found.inner is None


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
    assert leaving("eth0", 0x0800, udp(VIP, CLIENT, 99, b"")) == Leaving(VIP, CLIENT, 9, "eth0")
    assert leaving("eth0", 0x86DD, udp(VIP6, CLIENT6, 99, b"")) == Leaving(VIP6, CLIENT6, 9, "eth0")
    assert leaving("eth0", 0x0806, udp(VIP, CLIENT, 99, b"")) is None
    assert leaving("eth0", 0x0800, ipv4(VIP, CLIENT, 6, b"1234")) is None


WHOLE = [
    wrapped("gre", udp(CLIENT6, VIP6, 1812, b"x"), 6, key=7, checksum=True),
    wrapped("gre", udp(CLIENT, VIP, 1812, b"x")),
    wrapped("ipip", udp(CLIENT, VIP, 1812, b"x")),
]


@given(st.one_of(st.binary(max_size=120), st.sampled_from(WHOLE)))
def test_nothing_that_arrives_is_a_stumbling_block(data: bytes) -> None:
    for length in range(len(data) + 1):
        found = arriving("eth0", data[:length])
        assert found is None or length >= 20
    assert leaving("eth0", 0x0800, data) is None or len(data) >= 22
    assert leaving("eth0", 0x86DD, data) is None or len(data) >= 42


@given(st.sampled_from(WHOLE), st.integers(0, 80), st.integers(0, 255))
def test_nor_is_a_byte_that_is_another(whole: bytes, place: int, value: int) -> None:
    changed = bytearray(whole)
    changed[place % len(changed)] = value
    arriving("eth0", bytes(changed))
    leaving("eth0", 0x0800, bytes(changed))
