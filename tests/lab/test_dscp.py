"""L3DSR: the balancer writes a real server's address and a code point, and the real server writes the VIP back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.lab.agent import Agent, vip
from tests.lab.ledger import Ledger
from tests.lab.marking import nft, send_marked
from tests.lab.servers import RATE
from tests.lab.traffic import Answer, Stream, ask_tcp, ask_udp, client_ip, echoes
from tests.lab.world import RS1, RS2, SERVERS, world

VIP, VIP6, OTHER = "192.0.2.10", "2001:db8:f::10", "192.0.2.11"
PORT = 7001
MEGABYTE = bytes(range(256)) * 4096

CONFIG = '[[tunnel]]\nencapsulation = "dscp"\n' + vip(VIP, dscp=7) + vip(VIP6, dscp=7) + vip(OTHER, dscp=63)
# Which VIP goes to which server, by which code point.
SENT = ((VIP, RS1, 7), (VIP6, RS1, 7), (OTHER, RS2, 63))


@pytest.fixture(scope="module", params=[pytest.param("debian", marks=pytest.mark.reference)])
def servers() -> Iterator[list[Agent]]:
    """Both real servers with the agent and a service on each VIP."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world())
        send_marked(SENT)
        agents = [stack.enter_context(Agent(server, CONFIG)) for server in SERVERS]
        for server in SERVERS:
            stack.enter_context(echoes(server, [VIP, VIP6, OTHER], [PORT]))
        yield agents


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("address", "server"), [(address, server) for address, server, _ in SENT])
class TestEachVip:
    @pytest.mark.parametrize("ask", [ask_udp, ask_tcp])
    def test_the_server_sees_the_client_and_answers_from_the_vip(
        self, ask: Callable[[str, int], Answer], address: str, server: str
    ) -> None:
        assert ask(address, PORT) == Answer(client_ip(address), server, address)

    def test_large_things_arrive_whole(self, address: str, server: str) -> None:
        """In fragments over UDP; a megabyte there and back over TCP, with nothing taken from the segments' size."""
        assert ask_udp(address, PORT, bytes(4000)) == Answer(client_ip(address), server, address)
        assert ask_tcp(address, PORT, MEGABYTE).server == server


def test_large_things_arrive_whole_where_connections_are_tracked(servers: list[Agent]) -> None:
    """There the kernel has put the fragments together before the rules see them."""
    nft(RS1, "add table inet tracked", "add chain inet tracked c { type filter hook input priority 0; }")
    nft(RS1, "add rule inet tracked c ct state invalid drop")
    try:
        for address in (VIP, VIP6):
            assert ask_udp(address, PORT, bytes(4000)).server == RS1
            assert ask_tcp(address, PORT, MEGABYTE).server == RS1
    finally:
        nft(RS1, "delete table inet tracked")


def test_nothing_is_lost_while_the_agent_is_away(servers: list[Agent], ledger: Ledger) -> None:
    agent = servers[0]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(address, PORT, min(60, RATE))) for address in (VIP, VIP6)]
        for number in (15, 9):
            streams[0].wait_answered(10)
            agent.stop(number)
            streams[0].wait_answered(10)
            agent.start()
        tallies = [stream.finish() for stream in streams]
    ledger.add("stop, kill and start, dscp", None, tallies[0] + tallies[1])
    assert [(tally.lost, tally.duplicates, tally.wrong) for tally in tallies] == [(0, 0, 0)] * 2


def test_rules_that_went_while_the_agent_was_away_come_back(servers: list[Agent]) -> None:
    """While it runs, the kernel keeps everybody else from changing them."""
    agent = servers[0]
    with pytest.raises(RuntimeError, match="Operation not permitted"):
        nft(RS1, "flush chain inet dsr_agent marked4")
    agent.stop()
    nft(RS1, "flush chain inet dsr_agent marked4")
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        ask_udp(VIP, PORT, timeout=1)
    agent.start()
    assert ask_udp(VIP, PORT).server == RS1


def test_the_self_test_arrives(servers: list[Agent]) -> None:
    found = servers[0].call("probe")
    assert found.returncode == 0, found.stdout
    assert "3 of 3 arrived" in found.stdout
