"""Whatever another program undoes under traffic is put right again; how fast, and what it cost, is in the table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent, agent_settings, tunnel, vip, wait_for
from tests.lab.drift import Drift, repair_of, shell, write
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, GRE6, IPIP, PORT, VIPS, real_server
from tests.lab.spaces import ip, set_sysctls, sysctl
from tests.lab.traffic import ask_tcp, ask_udp
from tests.lab.world import RS1

MORE = [f"192.0.2.{last}" for last in range(20, 30)]

CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in (*VIPS, *MORE))
# What the kernel announces is repaired without waiting for the next poll, and only what it does not needs one.
SELDOM, OFTEN = agent_settings(poll_interval=60), agent_settings(poll_interval=0.5)


def _tunnel_drifts(name: str, kind: str, module: str, address: str) -> list[Drift]:
    both = {
        "deleted": shell(f"ip link del {name}"),
        "set down": shell(f"ip link set {name} down"),
        "renamed": shell(f"ip link set {name} name other0"),
        "group wiped": shell(f"ip link set {name} group default"),
        "alias and group wiped": shell(f"ip link set {name} alias other group default"),
        "own address deleted": shell(f"ip addr del 192.0.0.8/32 dev {name}"),
        "rp_filter = 1": write(f"ipv4/conf/{name}/rp_filter", 1),
        "rp_filter = 0": write(f"ipv4/conf/{name}/rp_filter", 0),
        "forwarding = 1": write(f"ipv4/conf/{name}/forwarding", 1),
    }
    drifts = [Drift(f"{kind} tunnel {what}", address, do) for what, do in both.items()]
    return [*drifts, Drift(f"modprobe -r {module}", address, shell(f"modprobe -r {module}"))]


DRIFTS = [
    *_tunnel_drifts("dsr-ipip", "ipip", "sit", IPIP),
    *_tunnel_drifts("dsr-gre", "gre", "ip_gre", GRE),
    Drift("ipip tunnel local changed", IPIP, shell("ip link change dsr-ipip type sit local 10.3.0.99")),
    Drift("ipip tunnel bound to another card", IPIP, shell("ip link change dsr-ipip type sit local 10.3.0.11 dev lo")),
    Drift("gre tunnel local changed", GRE, shell("ip link change dsr-gre type gre local 10.3.0.99")),
    Drift("gre tunnel key added", GRE, shell("ip link change dsr-gre type gre local 10.3.0.11 key 5")),
    Drift("gre tunnel checksum added", GRE, shell("ip link change dsr-gre type gre local 10.3.0.11 icsum")),
    Drift("VIP deleted", IPIP, shell(f"ip addr del {IPIP}/32 dev lo")),
    Drift("IPv6 VIP deleted", GRE6, shell(f"ip addr del {GRE6}/128 dev lo")),
    Drift("VIP replaced (mark wiped)", IPIP, shell(f"ip addr replace {IPIP}/32 dev lo")),
    Drift("IPv6 VIP replaced (mark wiped)", GRE6, shell(f"ip addr replace {GRE6}/128 dev lo")),
    Drift("VIP given 60 s to live", IPIP, shell(f"ip addr change {IPIP}/32 dev lo valid_lft 60 preferred_lft 60")),
    Drift("all VIPs flushed, by label", IPIP, shell("ip addr flush dev lo label lo:dsr")),
    Drift("all IPv6 of lo flushed", GRE6, shell("ip -6 addr flush dev lo scope global")),
    Drift("lo set down", IPIP, shell("ip link set lo down")),
    Drift("lo down and up", GRE6, shell("ip link set lo down", "ip link set lo up")),
]

POLLED = [
    Drift("gre tunnel without IPv6 (polled)", GRE6, write("ipv6/conf/dsr-gre/disable_ipv6", 1)),
    Drift("arp_ignore lowered (polled)", IPIP, write("ipv4/conf/eth0/arp_ignore", 0)),
    Drift("arp_announce lowered (polled)", IPIP, write("ipv4/conf/eth0/arp_announce", 0)),
]


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


class Shifts:
    """Hands out the agent; a fresh one now and then, because ten repairs of one thing in a minute are a fight."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._settings = ""
        self._left = 0

    def agent(self, settings: str) -> Agent:
        """An agent with these settings that is up and idle."""
        if not self._left or self._settings != settings:
            self._stack.close()
            self._agent = self._stack.enter_context(Agent(RS1, settings + CONFIG))
            self._agent.settle()
            self._settings, self._left = settings, 6
        self._left -= 1
        return self._agent

    def close(self) -> None:
        """Stop the last one."""
        self._stack.close()
        self._left = 0


@pytest.fixture(scope="module")
def shifts(server: Eye) -> Iterator[Shifts]:
    """The agents, one at a time."""
    with contextlib.closing(Shifts()) as found:
        yield found


def _repaired(drift: Drift, server: Eye, agent: Agent, ledger: Ledger) -> None:
    mark = agent.mark()
    repair = repair_of(drift, server)
    ledger.add(drift.what, repair.seconds, repair.tally)
    wait_for(lambda: bool(agent.said(mark)), "a word about the repair")
    assert (repair.tally.duplicates, repair.tally.wrong) == (0, 0)


@pytest.mark.parametrize("drift", DRIFTS, ids=str)
def test_what_is_announced_is_repaired(drift: Drift, server: Eye, shifts: Shifts, ledger: Ledger) -> None:
    _repaired(drift, server, shifts.agent(SELDOM), ledger)


@pytest.mark.parametrize("drift", POLLED, ids=str)
def test_what_is_not_announced_is_found(drift: Drift, server: Eye, shifts: Shifts, ledger: Ledger) -> None:
    _repaired(drift, server, shifts.agent(OFTEN), ledger)


def test_all_is_well_after_that(shifts: Shifts) -> None:
    assert shifts.agent(OFTEN).status()["in_sync"]
    assert "127.0.0.1" in ip(RS1, "-o addr show dev lo")


@pytest.mark.parametrize("rp_filter", [1, 2], ids=["strict", "loose"])
def test_on_a_host_that_filters_reverse_paths(rp_filter: int, server: Eye, shifts: Shifts, ledger: Ledger) -> None:
    """On ``all`` and on each new link, as distributions have it; neither is touched."""
    paths = [f"ipv4/conf/{name}/rp_filter" for name in ("all", "default", "eth0")]
    set_sysctls(RS1, dict.fromkeys(paths, rp_filter))
    shifts.close()  # one agent at a time
    with Agent(RS1, SELDOM + CONFIG) as agent:
        mark = agent.mark()
        shell("ip link del dsr-gre")()
        agent.wait_log("dsr-gre", mark)
        for address in VIPS:
            for ask in (ask_udp, ask_tcp):
                assert ask(address, PORT).source == address
        agent.settle()
        for what, name, address in (("ipip", "dsr-ipip", IPIP), ("gre", "dsr-gre", GRE)):
            repair = repair_of(Drift("", address, shell(f"ip link del {name}")), server)
            ledger.add(f"{what} tunnel deleted, rp_filter = {rp_filter} on all", repair.seconds, repair.tally)
        assert [sysctl(RS1, path) for path in paths] == [str(rp_filter)] * 3
