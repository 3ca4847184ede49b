"""Tunnels of every kind in one file: what they share, what they leave behind, what they take for theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab import forge
from tests.lab.agent import Agent, tunnel, vip, wait_for
from tests.lab.eye import Eye
from tests.lab.guarded import TABLE, need_guard, nft, refusing
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import RATE, clean
from tests.lab.spaces import family_of, inside, run, udp_socket
from tests.lab.traffic import Stream, ask_udp, echoes
from tests.lab.world import BALANCER, BALANCER_IP6, CLIENT, RS1, SERVER_IP, SERVER_IP6, Virtual, world

PORT = 7001
HERE, HERE6 = SERVER_IP[RS1], SERVER_IP6[RS1]


@dataclass(frozen=True)
class Way:
    """A tunnel, and a VIP that is reached by it."""

    wrap: str
    outer: int
    address: str

    @property
    def tunnel(self) -> str:
        """As the file has it."""
        more = {} if self.outer == 4 else {"load_balancers": [BALANCER_IP6]}
        return tunnel(self.wrap, **more)


# GUE's tunnels share the links of IP in IP.
WAYS = [
    Way("ipip", 4, "192.0.2.10"),
    Way("ipip", 6, "2001:db8:f::10"),
    Way("gre", 4, "2001:db8:f::11"),
    Way("gre", 6, "192.0.2.11"),
    Way("gue", 4, "192.0.2.12"),
    Way("gue", 6, "2001:db8:f::12"),
]
CONFIG = "".join(way.tunnel + vip(way.address) for way in WAYS)


@pytest.fixture(scope="module", params=BOTH)
def server() -> Iterator[None]:
    """Every tunnel's VIP behind IPVS."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world([Virtual(way.address, way.wrap, way.outer) for way in WAYS]))
        stack.enter_context(echoes(RS1, [way.address for way in WAYS], [PORT]))
        yield


@pytest.fixture
def agent(server: None) -> Iterator[Agent]:
    with Agent(RS1, CONFIG) as running:
        yield running


def do(command: str) -> None:
    """Another program, on the real server."""
    with inside(RS1):
        run(*command.split())


def test_teardown_leaves_no_port_and_no_link(agent: Agent) -> None:
    with contextlib.closing(Eye(RS1)) as eye:
        assert len(eye.ours()) == 4
        agent.stop()
        assert agent.call("teardown").returncode == 0
        assert not eye.ours()
    with inside(RS1):
        assert run("ip", "fou", "show").strip() == ""


def test_an_ipv6_vip_behind_an_ipip_link_costs_no_packet(server: None, ledger: Ledger) -> None:
    """The kernel has links of both kinds at once: the one that takes both is there before the other one goes."""
    ipv4 = tunnel("ipip") + vip(WAYS[0].address)
    with contextlib.closing(Eye(RS1)) as eye:
        do(f"ip link add dsr-ipip type ipip local {HERE}")
        do("ip link set dsr-ipip up")
        with Agent(RS1, ipv4) as agent:
            assert [link.kind for link in eye.ours()] == ["ipip"], "adopted"
            agent.settle()
            with Stream(WAYS[0].address, PORT, RATE) as stream:
                stream.wait_answered(50)
                agent.reload(ipv4 + vip(WAYS[1].address))
                assert [link.kind for link in eye.ours()] == ["sit"]
                stream.wait_answered(50)
                tally = stream.finish()
            assert agent.call("plan").stdout == "in sync: nothing to do\n"
    ledger.add("an IPv6 VIP behind an ipip link: the link replaced", None, tally)
    assert clean(tally)


def _inner(version: int) -> bytes:
    protocol, source, destination = INNER[version]
    data = forge.udp(source, destination, PORT, b"forged")
    return forge.ip4(source, destination, 17, data) if protocol == 4 else forge.ip6(source, destination, 17, data)


INNER = {4: (4, "203.0.113.9", "192.0.2.10"), 6: (41, "2001:db8:9::9", "2001:db8:f::10")}


def _gue(version: int, first: int = 0, protocol: int | None = None) -> bytes:
    return bytes([first, INNER[version][0] if protocol is None else protocol, 0, 0]) + _inner(version)


BAD: dict[str, Callable[[int], bytes]] = {
    "control bit": lambda version: _gue(version, 0x20),
    "variant 1": _inner,
    "another variant": lambda version: _gue(version, 0x80),
    "GRE inside": lambda version: _gue(version, protocol=47),
    "half a header": lambda version: b"\0",
}


@pytest.mark.parametrize("to", [HERE, HERE6])
@pytest.mark.parametrize("what", BAD)
def test_a_balancers_gue_that_is_none(what: str, to: str, agent: Agent) -> None:
    """The header is looked at, too."""
    need_guard()
    with refusing("udp_header", 2), udp_socket(BALANCER, family_of(to)) as sender:
        for version in (4, 6):
            sender.sendto(BAD[what](version), (to, 6080))
    assert ask_udp(WAYS[4].address, PORT).server == RS1


@pytest.mark.parametrize("to", [HERE, HERE6])
@pytest.mark.parametrize(("sender", "reason"), [(CLIENT, "source"), (BALANCER, "protocol")])
def test_a_port_that_somebody_else_opened_leads_into_no_tunnel(sender: str, reason: str, to: str, agent: Agent) -> None:
    """Behind it is our link, and the kernel asks the guard no more."""
    need_guard()
    family = "" if to == HERE else "-6 "
    name = "ports" if to == HERE else "ports6"
    do(f"ip {family}fou add port 5000 gue")
    try:
        wait_for(lambda: "5000" in nft("list", "set", *TABLE.split(), name), "the guard to know of it")
        with refusing(reason, 2), udp_socket(sender, family_of(to)) as sending:
            for version in (4, 6):
                sending.sendto(_gue(version), (to, 5000))
    finally:
        do(f"ip {family}fou del port 5000")
    wait_for(lambda: "5000" not in nft("list", "set", *TABLE.split(), name), "the guard to forget it")
    assert ask_udp(WAYS[4].address, PORT).server == RS1
