"""What sockets mean for the services that VIPs declare, and how a service stands from look to look."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.kernel.netlink import Message
from dsr_agent.kernel.sockets import Socket, parse
from dsr_agent.state.model import Vip
from dsr_agent.truth.listeners import Service, ServiceFinding, Standing, Verdict, after, declared, find

V4, V6 = "192.0.2.10", "2001:db8::10"
BOUND, WILDCARD, ELSEWHERE, NOBODY = Verdict.BOUND, Verdict.WILDCARD, Verdict.ELSEWHERE, Verdict.NOBODY


def sockets(text: str) -> list[Socket]:
    """``udp 192.0.2.10%lo:1812 6``, several separated by commas; 6 for IPv6 only."""
    found = []
    for one in filter(None, text.split(", ")):
        transport, where, *only6 = one.split()
        address, _, port = where.rpartition(":")
        ip, _, device = address.partition("%")
        found.append(Socket(transport, int(port), ip_address(ip), bool(only6), device))
    return found


def judged(vip: str, service: str, held: str, tunnels: tuple[str, ...] = ("t",)) -> ServiceFinding:
    """What is found of one service of one VIP, the tunnel t being carried by the link dsr-t."""
    declares = Vip(ip_address(vip), vip, tunnels=tunnels, services=(service,))
    vips = {declares.key: declares}
    (finding,) = find(declared(vips), vips, sockets(held), {"t": "dsr-t"}).values()
    return finding


@pytest.mark.parametrize(
    ("vip", "service", "held", "verdict"),
    [
        (V4, "udp/1812", "", NOBODY),
        (V4, "udp/1812", "udp 192.0.2.10:1812", BOUND),
        (V4, "udp/1812", "tcp 192.0.2.10:1812", NOBODY),
        (V4, "udp/1812", "udp 192.0.2.10:1813", NOBODY),
        (V4, "udp/1812", "udp 10.0.0.2:1812", ELSEWHERE),
        (V4, "udp/1812", "udp 127.0.0.1:1812, udp ::1:1812", ELSEWHERE),
        (V4, "udp/1812", "udp 0.0.0.0:1812", WILDCARD),
        (V4, "udp/1812", "udp 0.0.0.0:1812, udp 192.0.2.10:1812", BOUND),
        (V4, "udp/1812", "udp :::1812", WILDCARD),
        (V4, "udp/1812", "udp :::1812 6", ELSEWHERE),
        (V4, "udp/1812", "udp :::1812 6, udp 0.0.0.0:1812", WILDCARD),
        (V4, "tcp/49", "tcp 0.0.0.0:49", WILDCARD),
        (V4, "tcp/49", "tcp :::49", WILDCARD),
        (V6, "udp/1812", "udp :::1812 6", WILDCARD),
        (V6, "udp/1812", "udp :::1812", WILDCARD),
        (V6, "udp/1812", "udp 0.0.0.0:1812", ELSEWHERE),
        (V6, "udp/1812", "udp 2001:db8::10:1812", BOUND),
        (V4, "udp/1812", "udp 0.0.0.0%dsr-t:1812", WILDCARD),
        (V4, "udp/1812", "udp 192.0.2.10%dsr-t:1812", BOUND),
        (V4, "udp/1812", "udp 192.0.2.10%eth0:1812", ELSEWHERE),
        (V4, "udp/1812", "udp 0.0.0.0%lo:1812", ELSEWHERE),
    ],
)
def test_where_a_service_is_listened_to(vip: str, service: str, held: str, verdict: Verdict) -> None:
    assert judged(vip, service, held).verdict is verdict


def test_a_vip_without_tunnels_may_be_served_from_any_device() -> None:
    """Its requests come by the network card, whichever that is."""
    assert judged(V4, "udp/1812", "udp 192.0.2.10%eth0:1812", tunnels=()).verdict is BOUND


@pytest.mark.parametrize(
    ("held", "everywhere", "verdict"),
    [
        ("udp 0.0.0.0:1812", False, ELSEWHERE),
        ("udp 192.0.2.10:1812", False, ELSEWHERE),
        ("udp 0.0.0.0:1812", True, WILDCARD),
        ("udp 0.0.0.0%blue:1812", False, WILDCARD),
        ("udp 192.0.2.10%blue:1812", False, BOUND),
        ("udp 0.0.0.0%red:1812", True, ELSEWHERE),
    ],
)
@pytest.mark.parametrize("device", ["blue", "vips"])
def test_what_arrives_in_a_vrf_is_for_sockets_of_that(
    held: str, everywhere: bool, verdict: Verdict, device: str
) -> None:
    """Unless the kernel is told otherwise; and it is said how to start the application."""
    declares = Vip(ip_address(V4), V4, device=device, tunnels=("t",), services=("udp/1812",), vrf="blue")
    vips = {declares.key: declares}
    (finding,) = find(declared(vips), vips, sockets(held), {}, {"udp"} if everywhere else ()).values()
    assert finding.verdict is verdict
    assert ("ip vrf exec blue PROGRAM" in str(finding)) is (verdict is ELSEWHERE)


def test_the_device_of_a_vrf_is_where_its_vips_are() -> None:
    declares = Vip(ip_address(V4), V4, device="red", tunnels=("t",), services=("tcp/49",))
    vips = {declares.key: declares}
    (finding,) = find(declared(vips), vips, sockets("tcp 0.0.0.0%red:49"), {}).values()
    assert finding.verdict is WILDCARD


@pytest.mark.parametrize(
    ("service", "held", "text", "doubtful"),
    [
        ("udp/1812", "", "nobody listens", False),
        ("udp/1812", "udp 192.0.2.10:1812", "bound to the VIP", False),
        ("tcp/49", "tcp :::49", "bound to every address ([::]:49)", False),
        (
            "udp/1812",
            "udp 0.0.0.0:1812",
            "bound to every address (0.0.0.0:1812), so it may answer from another one than the VIP (unless it uses "
            "IP_PKTINFO): bind it to the VIP",
            True,
        ),
        (
            "udp/1812",
            "udp 10.0.0.2:1812, udp :::1812 6, udp 10.0.0.2:1812",
            "bound to 10.0.0.2:1812, [::]:1812 (IPv6 only) only, where the VIP's requests never come: bind it to the "
            "VIP",
            False,
        ),
    ],
)
def test_it_is_said_what_is_wrong_with_it(service: str, held: str, text: str, doubtful: bool) -> None:
    found = judged(V4, service, held)
    assert (str(found), found.doubtful) == (text, doubtful)


def test_a_hundred_places_are_not_all_named() -> None:
    held = ", ".join(f"udp 10.0.0.{n}:1812" for n in range(1, 101))
    assert len(judged(V4, "udp/1812", held).at) == 4
    assert judged(V4, "udp/1812", held).at[-1] == "97 more"


# --- from look to look ------------------------------------------------------------------------------------------------

SERVICE = Service(Vip(ip_address(V4), V4).key, "tcp/49")
SEEN = {True: ServiceFinding("tcp/49", BOUND), False: ServiceFinding("tcp/49", NOBODY)}


def standing(looks: str, rise: int, fall: int) -> Standing:
    """After these looks: u for one that found somebody, d for one that did not."""
    found: dict[Service, Standing] = {}
    for look in looks:
        found = after(found, {SERVICE: SEEN[look == "u"]}, rise, fall)
    return found[SERVICE]


@pytest.mark.parametrize(
    ("looks", "up"),
    [
        ("u", True),
        ("d", False),
        ("ud", True),
        ("udd", True),
        ("uddd", False),
        ("uddu", True),
        ("uddudd", True),
        ("du", False),
        ("duu", True),
        ("dudu", False),
    ],
)
def test_it_takes_three_looks_to_fall_and_two_to_rise(looks: str, up: bool) -> None:
    assert standing(looks, rise=2, fall=3).up is up


@given(st.text("ud", min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_it_changes_exactly_with_a_long_enough_run(looks: str, rise: int, fall: int) -> None:
    up = looks[0] == "u"
    for look, run in groupby(looks):
        if (look == "u") != up and len(list(run)) >= (rise if look == "u" else fall):
            up = not up
    found = standing(looks, rise, fall)
    assert found.up is up
    assert found.finding == SEEN[looks[-1] == "u"]
    assert found.settled or found.up != found.finding.listening
    assert bool(found.why_not) is not up


def test_why_it_is_not_ready() -> None:
    assert standing("d", 2, 2).why_not == "tcp/49: nobody listens"
    assert standing("du", 2, 2).why_not == "tcp/49: listened to again, to be seen once more"
    assert standing("ud", 2, 2).why_not == ""


def test_what_is_no_longer_declared_is_forgotten() -> None:
    assert after({SERVICE: Standing(SEEN[True], up=True)}, {}, 2, 2) == {}


# --- the kernel's answer ----------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 30))
def test_nothing_that_comes_in_raises(body: bytes, kind: int) -> None:
    """Cut short, torn, made up."""
    found = parse(Message(kind, 2, 1, 0, body), "udp")
    assert found is None or 0 <= found.port < 65536


def test_an_answer_is_read() -> None:
    """As this kernel sent one for a dual-stack socket on port 5002."""
    fixed = struct.pack("=BBxx2s2s16s16sI8x20x", 10, 7, (5002).to_bytes(2, "big"), b"", b"", b"", 0)
    for only6 in (False, True):
        body = fixed + bytes.fromhex("0500080000000000") + struct.pack("=HHBxxx", 5, 11, only6)
        assert parse(Message(20, 2, 1, 0, body), "udp") == Socket("udp", 5002, ip_address("::"), only6)
