"""nPath: real IPVS in DR mode, and real servers that have the VIP and keep quiet about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent, agent_settings, vip
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.segment import VIP, VIP6, Watch, segment
from tests.lab.servers import RATE
from tests.lab.spaces import ip, set_sysctls
from tests.lab.traffic import Answer, Stream, ask_tcp, ask_udp, echoes
from tests.lab.world import BALANCER, CLIENT_IP, CLIENT_IP6, PORTS, RS1, RS2, SERVERS

L2 = '[[tunnel]]\nencapsulation = "l2"\n'
CONFIG = L2 + vip(VIP) + vip(VIP6)
MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture(scope="module", params=MOSTLY_FAST, autouse=True)
def network() -> Iterator[None]:
    with segment():
        yield


@contextlib.contextmanager
def servers(config: str = CONFIG) -> Iterator[list[Agent]]:
    """The agent and the services on both real servers, which nobody has told to be silent before."""
    for server in SERVERS:
        set_sysctls(server, {"ipv4/conf/all/arp_ignore": 0, "ipv4/conf/all/arp_announce": 0})
    with contextlib.ExitStack() as stack:
        agents = [stack.enter_context(Agent(server, config)) for server in SERVERS]
        for server in SERVERS:
            stack.enter_context(echoes(server, [VIP, VIP6], PORTS))
        try:
            yield agents
        finally:
            for agent in agents:
                agent.stop()
                agent.call("teardown")


@pytest.mark.parametrize(("address", "client"), [(VIP, CLIENT_IP), (VIP6, CLIENT_IP6)])
def test_both_real_servers_answer_the_client_from_the_vip(address: str, client: str) -> None:
    """What the balancer sends on: small, in fragments, a megabyte there and back."""
    with servers():
        for ask in (ask_udp, ask_tcp):
            assert ask(address, 7001) == Answer(client, RS1, address)
            assert ask(address, 7002) == Answer(client, RS2, address)
        assert ask_udp(address, 7001, bytes(4000)) == Answer(client, RS1, address)
        assert ask_tcp(address, 7002, MEGABYTE).server == RS2
        assert {ask_udp(address, 7000).server for _ in range(8)} == set(SERVERS)


def test_nobody_but_the_balancer_answers_for_the_vip(ledger: Ledger) -> None:
    """From before the start to after the end; while VIPs are removed, ``lo`` flaps, and the agent is killed."""
    with Watch() as watch:
        watch.again()
        with servers() as (agent, _):
            watch.again()
            for gone in (f"{VIP}/32", f"{VIP6}/128"):
                for _ in range(3):
                    mark = agent.mark()
                    ip(RS1, f"address del {gone} dev lo")
                    agent.wait_log("put back in", mark)
            for _ in range(3):
                mark = agent.mark()
                ip(RS1, "link set lo down")
                agent.wait_log("put back in", mark)
                watch.again()
            agent.stop(9)
            watch.again()
            agent.start()
            watch.again()
        watch.again()
        ledger.note(f"the VIPs of a segment were asked for {watch.rounds} times; answered by {BALANCER} alone")
    assert watch.answered[VIP] == watch.answered[VIP6] == {BALANCER}
    assert watch.claimed <= {BALANCER}


def test_a_real_server_names_its_own_address_when_it_asks() -> None:
    """Answers leave from the VIP, and the question for the client's MAC address that comes first must not."""
    with servers(), Watch() as watch:
        for server in SERVERS:
            ip(server, "neighbour flush dev eth0")
        for port in (7001, 7002):
            assert ask_udp(VIP, port).source == VIP
        watch.again(5)
    assert watch.claimed <= {BALANCER}


def test_nobody_answers_with_what_the_watch_would_hear() -> None:
    """The same on a host where ARP is left to the operator: the watch hears it."""
    with Watch() as watch, servers(agent_settings(arp="ignore") + CONFIG):
        watch.again()
    assert watch.answered[VIP] >= set(SERVERS)
    assert watch.answered[VIP6] == {BALANCER}


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_traffic_goes_on_while_the_agent_is_away(verb: str, ledger: Ledger) -> None:
    numbers = {"stop": 15, "kill": 9}
    with servers() as (agent, _), contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(address, 7001, min(50, RATE))) for address in (VIP, VIP6)]
        streams[0].wait_answered(10)
        agent.stop(numbers[verb])
        streams[0].wait_answered(10)
        agent.start()
        streams[0].wait_answered(10)
        tallies = [stream.finish() for stream in streams]
    ledger.add(f"{verb} and start, l2", None, tallies[0] + tallies[1])
    assert [(tally.lost, tally.duplicates) for tally in tallies] == [(0, 0), (0, 0)]
