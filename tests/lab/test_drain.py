"""Drained under traffic: the balancer is told, and nobody who is being served notices."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.agent import Agent, has_inet_tables, tunnel, vip, wait_for
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, GRE6, IPIP, PORT, VIPS, clean, real_server, streams, total
from tests.lab.spaces import within
from tests.lab.traffic import ask_tcp
from tests.lab.world import RS1

SERVICES = [f"udp/{PORT}", f"tcp/{PORT}"]
CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address, services=SERVICES) for address in VIPS)


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def readyz(address: str = "") -> int:
    """What a balancer is told: status 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", 9177, timeout=30)
    try:
        connection.sock = within(RS1, lambda: socket.create_connection(("127.0.0.1", 9177), 30))
        connection.request("GET", f"/readyz/{address}" if address else "/readyz")
        return connection.getresponse().status
    except ConnectionRefusedError:
        return 0
    finally:
        connection.close()


def told() -> list[int]:
    """Of the host, and of each VIP."""
    return [readyz(), readyz(IPIP), readyz(GRE), readyz(GRE6)]


def drained(agent: Agent, address: str) -> dict[str, Any]:
    """What ``status`` says of a drained VIP."""
    rows: list[dict[str, Any]] = agent.says()["drained"]["vips"]
    return next(row for row in rows if row["vip"] == address)


def arrived(agent: Agent) -> int:
    """Packets for the drained VIP; 0 as long as nothing is known."""
    found = drained(agent, IPIP)["arriving"]
    return int(found["packets"]) if found else 0


def test_a_drain_loses_nothing_and_is_told_of_that_vip_alone(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, CONFIG) as agent:
        wait_for(lambda: readyz() == 200, "all is ready")
        with streams() as found:
            before = server.view()
            assert agent.call("drain", IPIP).returncode == 0
            assert told() == [200, 503, 200, 200]
            if has_inet_tables():  # the guard counts
                wait_for(lambda: arrived(agent) > 0, "packets are seen to arrive")
            else:
                assert drained(agent, IPIP)["arriving"] is None
            assert ask_tcp(IPIP, PORT, b"hello").source == IPIP
            agent.stop()
            agent.start()
            wait_for(lambda: readyz() == 200, "it answers again")
            assert told() == [200, 503, 200, 200]
            assert agent.call("drain").returncode == 0
            assert told() == [503, 503, 503, 503]
            assert agent.call("undrain").returncode == 0
            assert told() == [200, 200, 200, 200]
            assert server.view() == before
            tally = total(found)
        assert clean(tally)
        if has_inet_tables():
            agent.call("drain", IPIP)
            wait_for(lambda: drained(agent, IPIP)["arriving"] is not None, "it is looked at")
            wait_for(lambda: "quiet: no packet since" in agent.call("status").stdout, "status to say that it is quiet")
    ledger.add("a VIP drained, the agent restarted, all drained, undrained", None, tally)
