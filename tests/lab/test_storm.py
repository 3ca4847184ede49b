"""Announcements that are lost: what happened meanwhile is found all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.agent import Agent, agent_settings, tunnel, vip
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE6, IPIP, VIPS, real_server, streams, total
from tests.lab.spaces import ip, ip_batch, within
from tests.lab.world import RS1

# Nothing but announcements leads to a look within the time that this test waits.
CONFIG = (
    agent_settings(poll_interval=60, resync_interval=3600)
    + tunnel("ipip")
    + tunnel("gre")
    + "".join(vip(address) for address in VIPS)
)
STORM = ["address add 198.51.100.7/32 dev lo", "address del 198.51.100.7/32 dev lo"] * 4000


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def dropped(process: int) -> int:
    """How many announcements the process has not been given."""
    sockets = set()
    for handle in Path(f"/proc/{process}/fd").iterdir():
        target = os.readlink(handle)
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    lines = within(RS1, Path("/proc/thread-self/net/netlink").read_text).splitlines()[1:]
    return sum(int(line.split()[8]) for line in lines if line.split()[9] in sockets)


@pytest.mark.timeout(280)
def test_a_storm_while_the_agent_is_stopped(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, CONFIG) as agent:
        agent.settle()
        before, mark = server.view(), agent.mark()
        assert agent.process
        agent.process.send_signal(signal.SIGSTOP)
        lost_before, rounds = dropped(agent.process.pid), 0
        while dropped(agent.process.pid) == lost_before:
            ip_batch(RS1, STORM)
            rounds += 1
        ip(RS1, f"addr del {IPIP}/32 dev lo")
        ip(RS1, f"addr del {GRE6}/128 dev lo")
        ip(RS1, "link del dsr-gre")
        agent.process.send_signal(signal.SIGCONT)
        seconds = server.until_again(before)
        agent.wait_log("announcements of the kernel were lost", mark)
        assert {link.name for link in server.ours()} == {"dsr-ipip", "dsr-gre"}
        with streams() as found:
            assert total(found).lost == 0
        assert agent.call("status").returncode == 0
    ledger.add(f"announcements lost in a storm of {rounds * len(STORM)} changes", seconds, None)
