"""Tunnels of every kind under attack by other programs and by strangers: put back, told by the self-test, refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab import forge
from tests.lab.agent import Agent, agent_settings, has_inet_tables, tunnel, vip, wait_for
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import clean
from tests.lab.spaces import inside, run, within
from tests.lab.traffic import Stream, ask_udp, echoes
from tests.lab.world import BALANCER, BALANCER_IP6, CLIENT, CLIENT_IP, RS1, SERVER_IP, SERVER_IP6, Virtual, world

PORT = 7001
HERE, HERE6 = SERVER_IP[RS1], SERVER_IP6[RS1]


@dataclass(frozen=True)
class Way:
    """A tunnel, a VIP that is reached by it, and what another program does to it."""

    wrap: str
    outer: int
    address: str
    undo: str

    @property
    def tunnel(self) -> str:
        """As the file has it."""
        more = {} if self.outer == 4 else {"load_balancers": [BALANCER_IP6]}
        return tunnel(self.wrap, **more)

    def __str__(self) -> str:
        return f"{self.wrap} over IPv{self.outer}: {self.undo}"


# GUE's tunnels share the links of IP in IP.
WAYS = [
    Way("ipip", 4, "192.0.2.10", "ip link del dsr-ipip"),
    Way("ipip", 6, "2001:db8:f::10", "ip link del dsr-ipip6"),
    Way("gre", 4, "2001:db8:f::11", "ip link del dsr-gre"),
    Way("gre", 6, "192.0.2.11", "ip link del dsr-gre6"),
    Way("gue", 4, "192.0.2.12", f"ip fou del port 6080 local {HERE}"),
    Way("gue", 6, "2001:db8:f::12", f"ip -6 fou del port 6080 local {HERE6}"),
]
# Ports are polled.
CONFIG = agent_settings(poll_interval=0.5) + "".join(way.tunnel + vip(way.address) for way in WAYS)


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


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_undone_is_put_back(way: Way, agent: Agent, ledger: Ledger) -> None:
    """Under traffic, and by itself."""
    agent.settle()
    with Stream(way.address, PORT, 50) as stream:
        stream.wait_answered()
        mark = agent.mark()
        do(way.undo)
        seconds = wait_for(lambda: " again in " in agent.said(mark), "the repair")
        stream.wait_answered(20)
        tally = stream.finish()
    ledger.add(str(way), seconds, tally)
    assert agent.call("plan").stdout == "in sync: nothing to do\n"
    assert tally.wrong == 0


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_self_test_says_what_is_missing_and_sends_nothing(way: Way, agent: Agent) -> None:
    """While nobody repairs it."""
    agent.settle()
    assert agent.process
    os.kill(agent.process.pid, signal.SIGSTOP)
    try:
        do(way.undo)
        done = agent.call("probe", way.address, "--json")
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)
    results = {row["tunnel"]: row for row in json.loads(done.stdout)["results"]}
    name = f"dsr-{way.wrap}{'6' if way.outer == 6 else ''}"
    assert results[name]["result"] == "no_tunnel", results
    assert done.returncode == 1
    agent.wait_log(" again in ")


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
            with Stream(WAYS[0].address, PORT) as stream:
                stream.wait_answered(50)
                agent.reload(ipv4 + vip(WAYS[1].address))
                assert [link.kind for link in eye.ours()] == ["sit"]
                stream.wait_answered(50)
                tally = stream.finish()
            assert agent.call("plan").stdout == "in sync: nothing to do\n"
    ledger.add("an IPv6 VIP behind an ipip link: the link replaced", None, tally)
    assert clean(tally)


# --- forged -----------------------------------------------------------------------------------------------------------


def refused(reason: str) -> int:
    """How many packets the guard has refused for *reason*."""
    with inside(RS1):
        listed = json.loads(run("nft", "-j", "list", "counter", "inet", "dsr_agent", reason))["nftables"]
    return next(int(item["counter"]["packets"]) for item in listed if "counter" in item)


INNER = {4: (4, "203.0.113.9", "192.0.2.10"), 6: (41, "2001:db8:9::9", "2001:db8:f::10")}


def _inner(version: int) -> bytes:
    protocol, source, destination = INNER[version]
    data = forge.udp(source, destination, PORT, b"forged")
    return forge.ip4(source, destination, 17, data) if protocol == 4 else forge.ip6(source, destination, 17, data)


def _gue(version: int, first: int = 0, protocol: int | None = None) -> bytes:
    return bytes([first, INNER[version][0] if protocol is None else protocol, 0, 0]) + _inner(version)


def _send(space: str, to: str, protocol: int, data: bytes) -> None:
    """*data* behind an IP header that the sender's kernel makes."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with within(space, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as raw:
        raw.sendto(data, (to, 0))


def _send_udp(space: str, to: str, port: int, data: bytes) -> None:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with within(space, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
        sender.sendto(data, (to, port))


@pytest.fixture
def guarded(agent: Agent) -> Agent:
    if not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    return agent


@pytest.mark.parametrize("to", [HERE, HERE6])
@pytest.mark.parametrize("version", [4, 6])
def test_a_stranger_gets_in_by_no_tunnel(to: str, version: int, guarded: Agent, ledger: Ledger) -> None:
    """Wrapped as it is declared, and by somebody else."""
    before = refused("source")
    ethertype = forge.ETH_IP if version == 4 else forge.ETH_IP6
    _send(CLIENT, to, INNER[version][0], _inner(version))
    _send(CLIENT, to, forge.GRE, forge.gre(_inner(version), ethertype))
    _send_udp(CLIENT, to, 6080, _gue(version))
    wait_for(lambda: refused("source") == before + 3, "three packets refused")
    ledger.note(f"forged by {CLIENT_IP}, IPv{version} to {to}: ipip, gre and gue refused")


BAD: dict[str, Callable[[int], bytes]] = {
    "control bit": lambda version: _gue(version, 0x20),
    "variant 1": _inner,
    "another variant": lambda version: _gue(version, 0x80),
    "GRE inside": lambda version: _gue(version, protocol=47),
    "half a header": lambda version: b"\0",
}


@pytest.mark.parametrize("to", [HERE, HERE6])
@pytest.mark.parametrize("what", BAD)
def test_a_balancers_gue_that_is_none(what: str, to: str, guarded: Agent) -> None:
    """The header is looked at, too."""
    before = refused("udp_header")
    for version in (4, 6):
        _send_udp(BALANCER, to, 6080, BAD[what](version))
    wait_for(lambda: refused("udp_header") == before + 2, "two packets refused")
    assert ask_udp(WAYS[4].address, PORT).server == RS1
