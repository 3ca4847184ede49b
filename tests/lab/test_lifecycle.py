"""Start, stop, kill -9, a second agent: the traffic notices none of it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.eye import FALLBACKS, Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import VIPS, clean, real_server, streams, total
from tests.lab.spaces import within
from tests.lab.world import RS1

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)
TIMES = 20


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def netlink_sockets() -> int:
    """How many there are in the namespace (the kernel's own have no port)."""
    lines = within(RS1, Path("/proc/thread-self/net/netlink").read_text).splitlines()[1:]
    return sum(1 for line in lines if line.split()[2] != "0")


def open_files(agent: Agent) -> int:
    assert agent.process
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


def held(agent: Agent) -> tuple[int, int]:
    """Sockets in the namespace, files open in the agent: the fewest of some looks, as a self-test has its own."""
    looks = []
    for _ in range(10):
        looks.append((netlink_sockets(), open_files(agent)))
        time.sleep(0.05)
    return min(sockets for sockets, _ in looks), min(files for _, files in looks)


def test_killed_and_started_again_under_traffic(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, CONFIG) as agent:
        agent.settle()
        with streams() as found:
            before, counts = server.view(), []
            for turn in range(TIMES):
                agent.stop(signal.SIGKILL)
                agent.start()
                assert server.view() == before
                if turn in (0, TIMES - 1):
                    agent.settle()
                    counts.append(held(agent))
            tally = total(found)
        ledger.add(f"agent killed (-9) and started {TIMES} times", None, tally)
        assert clean(tally)
        assert counts[0] == counts[1], "sockets in the namespace, files open in the agent"
        assert len(server.ours()) == 2
        assert agent.log().count("nothing to do, in sync") == TIMES


def test_killed_while_it_starts(server: Eye, ledger: Ledger) -> None:
    """Half of a tunnel is completed by the next start, and nothing is left over."""
    moments = random.Random(1)
    with Agent(RS1, CONFIG) as agent:
        before = server.view()
        for _ in range(3):
            agent.stop()
            assert agent.call("teardown").returncode == 0
            assert not server.ours()
            agent.start(wait=False)
            server.until(lambda view: any(link.outer and link.name not in FALLBACKS for link in view.links), "a tunnel")
            time.sleep(moments.uniform(0, 0.03))
            agent.stop(signal.SIGKILL)
            agent.start()
            assert server.view() == before
    ledger.note("agent killed 3 times while it made its tunnels: completed by the next one, nothing left over")


def test_stopped_under_traffic(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, CONFIG) as agent, streams() as found:
        before = server.view()
        assert agent.stop(signal.SIGTERM) == 0
        assert "tunnels and VIPs stay" in agent.log()
        assert server.view() == before
        for stream in found:
            stream.wait_answered(50)
        agent.start()
        tally = total(found)
    ledger.add("agent stopped and started", None, tally)
    assert clean(tally)


@pytest.mark.usefixtures("server")
def test_a_second_agent_refuses() -> None:
    with Agent(RS1, CONFIG) as agent:
        refused = agent.call("run")
        assert agent.process
        assert (refused.returncode, agent.running) == (1, True)
        assert f"already runs here (process {agent.process.pid})" in refused.stderr
        said = agent.status()["agent"]
        assert (said["running"], said["pid"]) == (True, agent.process.pid)
