"""A real server in a network namespace, and an agent that is started outside of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent, agent_settings, tunnel, vip
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import GRE6, IPIP, PORT, VIPS, real_server
from tests.lab.spaces import inside, ip, run
from tests.lab.traffic import Answer, Stream, ask_tcp, ask_udp, client_ip
from tests.lab.world import ROUTER, RS1

CONFIG = agent_settings(netns=RS1) + tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)


@pytest.fixture(params=BOTH)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def test_requests_are_answered_there_and_drift_is_repaired(server: Eye, ledger: Ledger) -> None:
    """Tunnels, VIPs, guard, self-test and ownership are of the namespace; where the agent was started is nothing."""
    with Agent(ROUTER, CONFIG) as agent:
        for address in VIPS:
            for ask in (ask_udp, ask_tcp):
                assert ask(address, PORT) == Answer(client_ip(address), RS1, address)
        assert agent.call("probe").returncode == 0
        before = server.view()
        for command in ("link del dsr-ipip", f"address del {GRE6}/128 dev lo"):
            with Stream(IPIP if "link" in command else GRE6, PORT, 50) as stream:
                stream.wait_answered(5)
                ip(RS1, command)
                seconds = server.until_again(before)
                stream.wait_answered(5)
                ledger.add(f"in a namespace: {command}", seconds, stream.finish())
        with inside(ROUTER):
            assert "dsr-" not in run("ip", "link")
        agent.stop()
        assert agent.call("teardown").returncode == 0
        assert not server.ours()
