"""What the self-test refuses to send, on this kernel: it needs no tunnel modules for that."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from dsr_agent.kernel.probe import Prober
from dsr_agent.state.model import Ip, Link
from dsr_agent.state.probe import Seen, Shot, Sight
from dsr_agent.truth.packets import ipv4, udp
from tests.netns.space import NETWORK_CARD, namespace, sh

HERE, VIP, CLIENT = IPv4Address("10.0.3.2"), ip_address("192.0.2.10"), ip_address("192.0.2.1")


@pytest.fixture
def host() -> Iterator[None]:
    with namespace():
        sh(*NETWORK_CARD, f"ip addr add {VIP}/32 dev lo", "ip route add default via 10.0.3.1")
        yield


def bare(port: int, payload: bytes) -> bytes:
    """The packet inside alone, so that it arrives without a tunnel."""
    assert isinstance(CLIENT, IPv4Address)
    return udp(IPv4Address("10.0.3.2"), VIP, port, payload)


def shot(vip: Ip = VIP, local: IPv4Address = HERE, client: Ip = CLIENT, why: str = "") -> Shot:
    """What would be sent."""

    def unfit(found: Link | None) -> str:
        assert found is None or found.name == "nic"
        return why

    return Shot(vip, "nic", local, client, unfit, bare)


def fire(what: Shot) -> Sight:
    """What becomes of it."""

    async def story() -> Sight:
        prober = Prober()
        try:
            return await prober.fire(what, 5.0, evidence=True)
        finally:
            prober.close()

    return asyncio.run(story())


def sent() -> int:
    """Packets that this host has sent."""
    words = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    return int(words[1][words[0].index("OutRequests")])


def test_what_arrives_is_told_by_the_link_it_came_by(host: None) -> None:
    """Of what never left the kernel, it tells the link of the address that it was sent to."""
    assert fire(shot()).what is Seen.ARRIVED
    sight = fire(replace(shot(), link="another", unfit=lambda _: ""))
    assert (sight.what, sight.came) == (Seen.ELSEWHERE, "nic")


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        (shot(vip=ip_address("192.0.2.99")), Seen.NO_VIP),
        (shot(why="the tunnel is down"), Seen.NO_TUNNEL),
        (shot(local=IPv4Address("10.0.3.99")), Seen.NO_TUNNEL),
        (shot(client=HERE), Seen.UNKNOWN),
    ],
)
def test_nothing_is_sent(host: None, what: Shot, seen: Seen) -> None:
    before = sent()
    sight = fire(what)
    assert (sight.what, bool(sight.why), sent() - before) == (seen, True, 0)


def test_nothing_is_sent_without_a_route_to_where_clients_are(host: None) -> None:
    sh("ip route del default")
    before = sent()
    assert fire(shot()).what is Seen.UNKNOWN
    assert sent() == before


def test_it_goes_to_the_declared_port(host: None) -> None:
    seen: list[int] = []

    def noted(port: int, payload: bytes) -> bytes:
        seen.append(port)
        return udp(IPv4Address("10.0.3.2"), VIP, port, payload)

    async def story() -> None:
        prober = Prober(9178)
        try:
            await prober.fire(replace(shot(), wrap=noted), 0.05)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind((str(VIP), 9178))
                sight = await prober.fire(replace(shot(), wrap=noted), 0.05)
            assert (sight.what, sight.why) == (
                Seen.REFUSED,
                "no socket on port 9178 of the VIP: Address already in use",
            )
        finally:
            prober.close()

    asyncio.run(story())
    assert seen == [9178]


def test_what_has_arrived_is_not_lost_because_nobody_looked_in_time(host: None) -> None:
    """As when one process sends by the dozen: its turn to look comes when its patience is over."""

    async def others() -> None:
        time.sleep(0.1)  # noqa: ASYNC251  to be in the way is what it is for

    async def story() -> Sight:
        prober = Prober()
        try:
            sight, _ = await asyncio.gather(prober.fire(shot(), 0.05), others())
            return sight
        finally:
            prober.close()

    assert asyncio.run(story()).what is Seen.ARRIVED


def test_somebody_elses_datagram_is_not_ours(host: None) -> None:
    def other(port: int, payload: bytes) -> bytes:
        return udp(IPv4Address("10.0.3.2"), VIP, port, payload[:-1] + b"?")

    async def story() -> Sight:
        prober = Prober()
        try:
            return await prober.fire(replace(shot(), wrap=other), 0.05)
        finally:
            prober.close()

    assert asyncio.run(story()).what is Seen.LOST
    assert ipv4(HERE, HERE, 4, b"")[8] == 1
