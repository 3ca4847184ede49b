"""The self-test on a real kernel: what it sees through whole tunnels, and through broken ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.eye import Eye
from tests.lab.marks import BOTH
from tests.lab.servers import GRE, GRE6, IPIP, VIPS, real_server
from tests.lab.world import RS1

KEYED = "192.0.2.12"
CONFIG = (
    tunnel("ipip")
    + tunnel("gre")
    + tunnel("gre", name="dsr-keyed", key=7, checksum=True)
    + vip(IPIP, tunnels=["dsr-ipip"])
    + vip(GRE, tunnels=["dsr-gre"])
    + vip(GRE6, tunnels=["dsr-gre"])
    + vip(KEYED, tunnels=["dsr-keyed"])
)


@pytest.fixture(scope="module", params=BOTH)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


def probe(agent: Agent, *names: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """``dsr-agent probe --json``: its exit code, and its rows by VIP."""
    done = agent.call("probe", *names, "--json")
    print(done.stdout, done.stderr)
    return done.returncode, {row["vip"]: row for row in json.loads(done.stdout)["results"]}


def test_every_kind_of_tunnel_gets_through(server: Eye) -> None:
    with Agent(RS1, CONFIG) as agent:
        code, rows = probe(agent)
        assert {address: (row["result"], row["link"]) for address, row in rows.items()} == {
            IPIP: ("arrived", "dsr-ipip"),
            GRE: ("arrived", "dsr-gre"),
            GRE6: ("arrived", "dsr-gre"),
            KEYED: ("arrived", "dsr-keyed"),
        }
        assert code == 0
        assert agent.call("probe", GRE6).stdout.startswith(f"VIP {GRE6} by dsr-gre: arrived by dsr-gre in ")
        assert set(VIPS) < set(rows)
