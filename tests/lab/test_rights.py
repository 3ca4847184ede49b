"""Not root: with CAP_NET_ADMIN alone the agent does the main job; without it, it says what it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.drift import Drift, repair_of, shell, write
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, IPIP, VIPS, real_server, streams, total
from tests.lab.world import RS1

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
ONE_CAPABILITY = ("--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin")
NO_CAPABILITY = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")

DRIFTS = [
    Drift("ipip tunnel deleted", IPIP, shell("ip link del dsr-ipip")),
    Drift("gre tunnel set down", GRE, shell("ip link set dsr-gre down")),
    Drift("VIP deleted", IPIP, shell(f"ip addr del {IPIP}/32 dev lo")),
    Drift("rp_filter = 1", IPIP, write("ipv4/conf/dsr-ipip/rp_filter", 1)),
]


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def test_one_capability_is_enough(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, CONFIG, wrapper=[*NOBODY, *ONE_CAPABILITY]) as agent:
        assert "in sync after" in agent.log()
        assert "not in sync" not in agent.log()
        with streams() as found:
            assert total(found).lost == 0
        agent.settle()
        for drift in DRIFTS:
            repair = repair_of(drift, server)
            ledger.add(f"not root: {drift.what}", repair.seconds, repair.tally)
        agent.reload(tunnel("ipip") + vip(IPIP))
        assert [link.name for link in server.ours()] == ["dsr-ipip"]
        assert "ERROR" not in agent.log()
        agent.stop()
        assert agent.call("teardown").returncode == 0
        assert not server.ours()


def test_without_it_the_log_says_what_is_lacking(server: Eye) -> None:
    with Agent(RS1, CONFIG, wrapper=[*NOBODY, *NO_CAPABILITY]) as agent:
        assert "not in sync" in agent.log()
        assert "CAP_NET_ADMIN" in agent.wait_log("ERROR")
        applied = agent.call("apply")
        assert applied.returncode == 1
        assert "CAP_NET_ADMIN" in applied.stdout
        status = agent.call("status")
        assert (status.returncode, server.ours()) == (1, [])
