"""The host's own address, at which the wrapped packets arrive, goes away, comes back, or becomes another one."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.lab.agent import Agent, agent_settings, tunnel, vip, wait_for
from tests.lab.eye import Eye, View
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, IPIP, PORT, RATE, VIPS, WRAPPED, real_server, streams, total
from tests.lab.spaces import ip_batch, set_sysctls
from tests.lab.traffic import Stream
from tests.lab.world import RS1, SERVER_IP, redirect

OLD, NEW = SERVER_IP[RS1], "10.3.0.21"
ROUTE = "route replace default via 10.3.0.1"


def config(local: str) -> str:
    tunnels = "".join(tunnel(kind, local=local) for kind in ("ipip", "gre"))
    return agent_settings(poll_interval=60) + tunnels + "".join(vip(address) for address in VIPS)


@pytest.fixture(params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def locals_of(view: View) -> set[object]:
    """Where the tunnels are listening."""
    return {link.outer.local for link in view.links if link.outer and link.name.startswith("dsr-")}


@pytest.mark.parametrize("local", ["auto", "eth0", OLD])
def test_gone_and_put_back(local: str, server: Eye, ledger: Ledger) -> None:
    """The tunnels stay as they are, and the traffic resumes by itself."""
    with Agent(RS1, config(local)) as agent:
        agent.settle()
        before = server.view()
        with streams([IPIP, GRE]) as found:
            mark = agent.mark()
            ip_batch(RS1, [f"address del {OLD}/24 dev eth0"])
            agent.wait_log("local", mark)  # it says that an address is missing, and for what
            assert locals_of(server.view()) == {IPv4Address(OLD)}
            ip_batch(RS1, [f"address add {OLD}/24 dev eth0", ROUTE])
            seconds = server.until_again(before)
            agent.wait_log("in sync again", mark)
            tally = total(found)
        assert agent.call("status").returncode == 0
    ledger.add(f"host address gone and back, local = {local}", seconds, tally)
    assert tally.wrong == 0


@pytest.mark.parametrize("local", ["auto", "eth0"])
@pytest.mark.parametrize("order", ["old-first", "new-first"])
def test_the_tunnels_follow_another_address(local: str, order: str, server: Eye, ledger: Ledger) -> None:
    """As after DHCP has given another lease; the balancer is told of the new address, too."""
    change = [f"address del {OLD}/24 dev eth0", f"address add {NEW}/24 dev eth0"]
    if order == "new-first":
        change.reverse()
        set_sysctls(RS1, {"ipv4/conf/eth0/promote_secondaries": 1})  # else the second address goes with the first
    with Agent(RS1, config(local)) as agent:
        agent.settle()
        with Stream(IPIP, PORT, RATE) as stream:
            stream.wait_answered()
            ip_batch(RS1, [*change, ROUTE])
            seconds = server.until(lambda view: locals_of(view) == {IPv4Address(NEW)}, "the new address")
            redirect(WRAPPED, RS1, NEW)
            stream.wait_answered(20)
            tally = stream.finish()
        wait_for(lambda: agent.call("status").returncode == 0, "all else to follow")
    ledger.add(f"host has another address ({order}), local = {local}", seconds, tally)
