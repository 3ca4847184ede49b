"""The main job: requests wrapped by a real IPVS reach both real servers, which answer the client from the VIP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import RATE
from tests.lab.traffic import Answer, Stream, ask_tcp, ask_udp, client_ip, connections_per_second, echoes
from tests.lab.world import PORTS, RS1, RS2, SERVERS, Virtual, send_keyed, world

IPIP, GRE, GRE6, KEYED, KEYED2 = "192.0.2.10", "192.0.2.11", "2001:db8:f::10", "192.0.2.12", "192.0.2.13"
VIPS = (IPIP, GRE, GRE6, KEYED, KEYED2)

CONFIG = (
    tunnel("ipip") + tunnel("gre") + tunnel("gre", name="dsr-keyed", key=7) + "".join(vip(address) for address in VIPS)
)

MEGABYTE = bytes(range(256)) * 4096

WAYS = [(address, 7001, RS1) for address in (IPIP, GRE, GRE6)] + [(address, 7002, RS2) for address in (IPIP, GRE, GRE6)]
WAYS += [(KEYED, 7001, RS1), (KEYED2, 7002, RS2)]
NAMES = [f"{name}-{server}" for server in SERVERS for name in ("ipip", "gre", "gre-ipv6")] + ["keyed-rs1", "keyed-rs2"]


@pytest.fixture(scope="module", params=BOTH)
def servers() -> Iterator[None]:
    """Both real servers with the agent and a service on each VIP."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world([Virtual(IPIP, "ipip"), Virtual(GRE, "gre"), Virtual(GRE6, "gre")]))
        send_keyed(KEYED, RS1, 7)
        send_keyed(KEYED2, RS2, 7)
        agents = [Agent(server, CONFIG) for server in SERVERS]
        for agent in agents:
            agent.start(wait=False)
            stack.push(agent.__exit__)
        for agent in agents:
            agent.wait_log("in sync after")
            stack.enter_context(echoes(agent.space, VIPS, PORTS))
        yield


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("address", "port", "server"), WAYS, ids=NAMES)
class TestEachWay:
    @pytest.mark.parametrize("ask", [ask_udp, ask_tcp])
    def test_the_server_sees_the_client_and_answers_from_the_vip(
        self, ask: Callable[[str, int], Answer], address: str, port: int, server: str
    ) -> None:
        assert ask(address, port) == Answer(client_ip(address), server, address)

    def test_a_megabyte_goes_there_and_comes_back(self, address: str, port: int, server: str) -> None:
        assert ask_tcp(address, port, MEGABYTE).server == server


@pytest.mark.usefixtures("servers")
def test_a_quiet_second_loses_nothing(ledger: Ledger) -> None:
    """What the other tests blame on what they do is not the lab's own doing."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(address, port, min(60, RATE))) for address, port, _ in WAYS]
        streams[-1].wait_answered(60)
        tallies = [stream.finish() for stream in streams]
    ledger.add(f"nothing, on {len(WAYS)} ways at once", None, sum(tallies[1:], tallies[0]))
    assert all((tally.lost, tally.duplicates, tally.wrong) == (0, 0, 0) for tally in tallies)


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("address", [IPIP, GRE, GRE6])
def test_the_balancer_spreads_over_both(address: str) -> None:
    assert {ask(address, 7000).server for ask in (ask_udp, ask_tcp) for _ in range(4)} == set(SERVERS)


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("address", [IPIP, GRE])
def test_connections_one_after_the_other(address: str, ledger: Ledger) -> None:
    rate = connections_per_second(address, 7000)
    ledger.note(f"{rate:.0f} TCP connections a second, one after the other, to {address}")


@pytest.mark.parametrize("key", [None, 9], ids=["plain", "keyed"])
def test_gre_with_checksums(key: int | None) -> None:
    config = tunnel("gre", checksum=True, **({} if key is None else {"key": key})) + vip(GRE)
    with world([] if key else [Virtual(GRE, "gre-csum")]), Agent(RS1, config), echoes(RS1, [GRE], [7001]):
        if key:
            send_keyed(GRE, RS1, key, checksum=True)
        for ask in (ask_udp, ask_tcp):
            assert ask(GRE, 7001) == Answer(client_ip(GRE), RS1, GRE)
        assert ask_tcp(GRE, 7001, MEGABYTE).server == RS1
