"""The bytes of ``include/uapi/linux/fou.h``, held against what ``ip fou`` sends and what the kernel lists."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.kernel import fou
from dsr_agent.state.errors import NotYet
from dsr_agent.state.port_actions import AddPort
from dsr_agent.state.ports import PortKey, UdpPort

HEAD = bytes.fromhex("03010000")  # the reply to FOU_CMD_GET, version 1
# ``ip fou add port 6080 gue local 10.3.0.11`` on a little-endian machine: port, family, type, local.
BY_HAND = bytes.fromhex("06000100 17c00000 05000200 02000000 05000400 02000000 08000600 0a03000b")
# The same with protocol 4 instead of gue, and a peer.
ODD = bytes.fromhex("06000100 17c00000 05000200 02000000 05000300 04000000 05000400 01000000 08000800 0a020005")


def test_what_ip_fou_opens_is_read() -> None:
    """Not ours: it lacks the mark."""
    here = IPv4Address("10.3.0.11")
    assert fou.parse(HEAD + BY_HAND) == UdpPort(PortKey(6080, 4, here), ours=False)
    assert fou.parse(HEAD + ODD) == UdpPort(PortKey(6080, 4), gue=False, protocol=4, narrow=True, ours=False)


@given(
    st.integers(1, 65535),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(lambda ip: not ip.is_unspecified),
)
def test_what_is_asked_for_is_what_is_read(number: int, local: IPv4Address | IPv6Address) -> None:
    key = PortKey(number, local.version, local)
    assert fou.parse(HEAD + fou.described(key, marked=True)) == UdpPort(key)


@pytest.mark.parametrize(
    ("port", "serves"),
    [
        (UdpPort(PortKey(6080, 4, IPv4Address("10.3.0.11"))), True),
        (UdpPort(PortKey(6080, 4), ours=False), True),
        (UdpPort(PortKey(6080, 4, IPv4Address("10.3.0.12"))), False),
        (UdpPort(PortKey(6081, 4)), False),
        (UdpPort(PortKey(6080, 6)), False),
        (UdpPort(PortKey(6080, 4), gue=False, protocol=4), False),
        (UdpPort(PortKey(6080, 4), narrow=True), False),
    ],
    ids=str,
)
def test_which_port_does_the_work(port: UdpPort, serves: bool) -> None:
    """One of every address does, too."""
    assert port.serves(PortKey(6080, 4, IPv4Address("10.3.0.11"))) == serves


def test_an_address_that_is_not_here_yet_is_waited_for() -> None:
    """The kernel binds a socket to it (net/ipv4/fou_core.c), and refuses that with EADDRNOTAVAIL meanwhile."""
    refused = fou._explain(AddPort(PortKey(6080, 4, IPv4Address("10.9.9.9"))), errno.EADDRNOTAVAIL, "")

    assert isinstance(refused, NotYet)
    assert "UDP port 6080 of 10.9.9.9: that address is not on this host (yet)" in str(refused)
