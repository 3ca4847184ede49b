"""A real server set up by hand: what is right already is taken over without a lost packet, the rest is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dsr_agent.state.marks import ADDRESS_PROTO, owns_address, owns_link
from tests.lab.agent import Agent, tunnel, vip
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, GRE6, IPIP, RATE, VIPS, clean, real_server, streams, total
from tests.lab.spaces import inside, run
from tests.lab.world import RS1

# An IPv6 VIP by ipip, too, would have its link replaced.
CONFIG = tunnel("ipip") + tunnel("gre") + vip(IPIP) + vip(GRE) + vip(GRE6, tunnels=["dsr-gre"])

VIPS_BY_HAND = (
    f"ip addr add {IPIP}/32 dev lo",
    f"ip addr add {GRE}/32 dev lo scope host",
    f"ip addr add {GRE6}/128 dev lo",
)


@pytest.fixture(params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def by_hand(*commands: str) -> None:
    with inside(RS1):
        for command in commands:
            run(*command.split())


TUNNELS_BY_HAND = {
    "the default names": (
        "ip link add dsr-ipip type ipip local 10.3.0.11",
        "ip link add dsr-gre type gre local 10.3.0.11",
        "ip link set dsr-ipip up",
        "ip link set dsr-gre up",
    ),
    "other names": (
        "ip link add ipip0 type ipip local 10.3.0.11 mode ipip ttl 64",
        "ip link add to-vips type gre local 10.3.0.11",
        "ip link set ipip0 up",
        "ip link set to-vips up",
    ),
}


@pytest.mark.parametrize("names", TUNNELS_BY_HAND)
def test_what_was_made_by_hand_is_adopted_under_traffic(names: str, server: Eye, ledger: Ledger) -> None:
    by_hand(*VIPS_BY_HAND, *TUNNELS_BY_HAND[names])
    there = {link.name for link in server.links().values() if link.outer}
    with streams(rate=3 * RATE) as found, Agent(RS1, CONFIG) as agent:
        tally = total(found)
        log = agent.log()
        assert {link.name for link in server.links().values() if link.outer} == there
        assert len([link for link in server.links().values() if owns_link(link)]) == 2
        marked = {str(at.ip): at for at in server.addresses() if at.link == "lo" and str(at.ip) in VIPS}
        assert set(marked) == set(VIPS)
        assert all(owns_address(at) and at.proto == ADDRESS_PROTO for at in marked.values())
        for subject in (*VIPS, *TUNNELS_BY_HAND[names][0].split()[3:4], *TUNNELS_BY_HAND[names][1].split()[3:4]):
            assert any(subject in line and "adopted" in line for line in log.splitlines()), (subject, log)
        assert agent.call("plan").stdout == "in sync: nothing to do\n"
    ledger.add(f"adoption of what was made by hand, {names}", None, tally)
    assert clean(tally)


IN_THE_WAY = {
    "a-tunnel-with-a-peer": ("ip link add dsr-ipip type ipip local 10.3.0.11 remote 10.3.0.12", "dsr-ipip"),
    "a-dummy": ("ip link add dsr-ipip type dummy", "dsr-ipip"),
    "gre-with-checksum": ("ip link add mine type gre local 10.3.0.11 icsum", "mine"),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_is_left_alone_and_named(what: str, server: Eye) -> None:
    command, name = IN_THE_WAY[what]
    by_hand(command)
    foreign = server.links()[name]
    with Agent(RS1, CONFIG) as agent:
        assert "not in sync" in agent.log()
        agent.wait_log(f"link {name} ")
        status = agent.call("status")
        assert status.returncode == 1
        assert f"link {name} " in status.stdout
        assert agent.call("apply").returncode == 1
        assert server.links()[name] == foreign
        other = "dsr-ipip" if name == "mine" else "dsr-gre"
        assert owns_link(server.links()[other]), "the tunnel that nothing is in the way of"
        by_hand(f"ip link del {name}")
        agent.wait_log("in sync again")
        assert agent.call("status").returncode == 0
