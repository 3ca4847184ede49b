"""The self-test on a real kernel: what it sees through whole tunnels, and through broken ones."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.service.web.client import UnixConnection
from tests.lab.agent import Agent, has_inet_tables, tunnel, vip, wait_for
from tests.lab.eye import Eye
from tests.lab.guarded import nft
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, GRE6, IPIP, PORT, VIPS, real_server
from tests.lab.spaces import inside, ip, ip_batch, set_sysctls, sysctl
from tests.lab.traffic import ask_udp
from tests.lab.world import BALANCER, BALANCER_IP, RS1, SERVER_IP

KEYED, CHECKED = "192.0.2.12", "192.0.2.13"
FALL = 3
LOST = "dsr_probe_lost_packets_total"
QUICK = f"[probe]\nrate = 200\ninterval = 0.5\ntimeout = 0.5\nfall = {FALL}\nrise = 2\n"
TUNNELS = (
    tunnel("ipip") + tunnel("gre") + tunnel("gre", name="keyed", key=7, checksum=True) + tunnel("gre", name="k8", key=8)
)
WHERE = {IPIP: "dsr-ipip", GRE: "dsr-gre", GRE6: "dsr-gre", KEYED: "keyed", CHECKED: "k8"}
CONFIG = QUICK + TUNNELS + "".join(vip(address, tunnels=[name]) for address, name in WHERE.items())


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server() as eye:
        yield eye


@pytest.fixture
def agent(server: Eye) -> Iterator[Agent]:
    with Agent(RS1, CONFIG) as running:
        yield running


@pytest.fixture
def held(agent: Agent) -> Iterator[Agent]:
    """An agent that repairs nothing for now: what is broken stays so."""
    agent.settle()
    assert agent.process
    os.kill(agent.process.pid, signal.SIGSTOP)
    yield agent
    os.kill(agent.process.pid, signal.SIGCONT)


def probe(agent: Agent, *names: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """``dsr-agent probe --json``: its exit code, and its rows by VIP."""
    done = agent.call("probe", *names, "--json")
    assert not done.stderr, done.stderr
    return done.returncode, {row["vip"]: row for row in json.loads(done.stdout)["results"]}


def get(agent: Agent, path: str) -> tuple[int, str]:
    """What the running agent answers, once it does: HTTP is served after the first pass."""
    found: list[tuple[int, str]] = []

    def answered() -> bool:
        asking = UnixConnection(str(Path(agent.file.parent, "http.sock")))
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(asking):
            asking.request("GET", path)
            answer = asking.getresponse()
            found.append((answer.status, answer.read().decode()))
        return bool(found)

    wait_for(answered, f"an answer to {path}")
    return found[0]


def metric(agent: Agent, name: str) -> float:
    """The sum of a metric's samples."""
    return on_page(get(agent, "/metrics")[1], name)


def on_page(page: str, name: str) -> float:
    """The same on a page that has been asked for."""
    return sum(map(float, re.findall(rf"^{name}(?:{{.*?}})? (\S+)$", page, re.MULTILINE)))


def icmp() -> tuple[str, ...]:
    """What was sent and received of ICMP where an answer of the kernel would show."""
    found = []
    for space in (RS1, BALANCER):
        with inside(space):
            found.append(re.findall("Icmp: .*", Path("/proc/net/snmp").read_text())[1])
    return tuple(found)


# --- whole tunnels ----------------------------------------------------------------------------------------------------


def test_every_kind_of_tunnel_gets_through(agent: Agent) -> None:
    code, rows = probe(agent)
    seen = {address: (row["result"], row["link"]) for address, row in rows.items()}
    assert seen == {address: ("arrived", name) for address, name in WHERE.items()}
    assert code == 0
    assert agent.call("probe", GRE6).stdout.startswith(f"VIP {GRE6} by dsr-gre: arrived by dsr-gre in ")
    assert agent.call("probe", "192.0.2.99").returncode == 2


def test_a_tunnel_open_to_anybody_and_services_get_through(server: Eye) -> None:
    guard = "[guard]\nservices = true\n" if has_inet_tables() else ""
    text = guard + tunnel("ipip", load_balancers="any") + vip(IPIP, services=["tcp/49"])
    with Agent(RS1, text) as agent:
        assert probe(agent)[1][IPIP]["result"] == "arrived"


def test_its_packets_count_nowhere(agent: Agent) -> None:
    """Two hundred of them and five of a client's: the five are counted."""
    names = ["dsr_tunnel_decapsulated_packets_total", "dsr_tunnel_decapsulated_bytes_total"]
    if has_inet_tables():
        names += ["dsr_guard_accepted_packets_total", "dsr_vip_received_packets_total", "dsr_vip_received_bytes_total"]
    wait_for(lambda: metric(agent, "dsr_probe_sent_packets_total") > 20, "the self-test")
    before = {name: metric(agent, name) for name in names}
    dropped = metric(agent, "dsr_guard_dropped_packets_total")
    for address in (IPIP, GRE, GRE6, IPIP, GRE):
        ask_udp(address, PORT, b"hello")
    sent = metric(agent, "dsr_probe_sent_packets_total")
    wait_for(lambda: metric(agent, "dsr_probe_sent_packets_total") > sent + 50, "more of the self-test")
    assert metric(agent, LOST) == 0
    size = 4 * (20 + 8 + 5) + (40 + 8 + 5)
    clients = {name: size if "bytes" in name else 5 for name in names}

    def counted() -> bool:  # what is under way is taken off too early, never too late
        return {name: metric(agent, name) - before[name] for name in names} == clients

    wait_for(counted, "the five of the client, and nothing else")
    assert metric(agent, "dsr_guard_dropped_packets_total") == dropped


# --- broken ones, and nobody repairs them -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something that is wrong on the real server: how to break it, how to mend it, and what the self-test says."""

    what: str
    vip: str
    breaking: Callable[[], object]
    mending: Callable[[], object]
    result: str
    suspect: str
    text: str = ""
    nftables: bool = False


def on_server(*lines: str) -> Callable[[], object]:
    """``ip`` commands on the real server."""
    return lambda: ip_batch(RS1, lines)


def rp_filter(value: int) -> Callable[[], object]:
    return lambda: set_sysctls(RS1, {"ipv4/conf/dsr-ipip/rp_filter": value})


def foreign(rule: str) -> Callable[[], object]:
    """A rule of another firewall, before the guard looks."""
    table = f"table inet other {{\nchain early {{\ntype filter hook prerouting priority -400;\n{rule}\n}}\n}}\n"
    return lambda: nft("-f", "-", given=table)


def no_foreign() -> object:
    return nft("delete", "table", "inet", "other")


ASIDE = ("rule add pref 10 lookup local", "rule del pref 0 lookup local", "rule add pref 5 iif dsr-ipip blackhole")
BACK = ("rule del pref 5", "rule add pref 0 lookup local", "rule del pref 10")
SPY = f"link add spy type ipip local {SERVER_IP[RS1]} remote {BALANCER_IP}"

FAULTS = [
    Fault("rp_filter strict", IPIP, rp_filter(1), rp_filter(2), "lost", "reverse_path", "of all: 1)"),
    Fault(
        "VIP missing",
        IPIP,
        on_server(f"address del {IPIP}/32 dev lo"),
        lambda: None,  # the agent's own way is the only one that leaves it as it was
        "no_vip",
        "vip",
    ),
    Fault(
        "tunnel down",
        IPIP,
        on_server("link set dsr-ipip down"),
        on_server("link set dsr-ipip up"),
        "no_tunnel",
        "tunnel",
        "the tunnel is down",
    ),
    Fault(
        "tunnel down, and tunl0 takes its packets",
        IPIP,
        on_server("link set dsr-ipip down", "link set tunl0 up"),
        on_server("link set tunl0 down", "link set dsr-ipip up"),
        "no_tunnel",
        "tunnel",
        "the tunnel is down",
    ),
    Fault(
        "tunnel missing",
        GRE6,
        on_server("link del dsr-gre"),
        lambda: None,
        "no_tunnel",
        "tunnel",
        "the tunnel is missing",
    ),
    Fault(
        "tunnel of somebody else",
        GRE,
        on_server("link set dsr-gre group 0"),
        on_server("link set dsr-gre group 54741"),
        "no_tunnel",
        "tunnel",
        "is not ours",
    ),
    Fault(
        "another key",
        CHECKED,
        on_server(f"link change k8 type gre local {SERVER_IP[RS1]} key 9"),
        on_server(f"link change k8 type gre local {SERVER_IP[RS1]} key 8"),
        "no_tunnel",
        "tunnel",
        "other than declared",
    ),
    Fault(
        "a closer tunnel",
        IPIP,
        on_server(SPY, "link set spy up"),
        on_server("link del spy"),
        "elsewhere",
        "other_tunnel",
        "by spy",
    ),
    Fault("policy routing", IPIP, on_server(*ASIDE), on_server(*BACK), "lost", "routing"),
    Fault(
        "a firewall drops what comes out of the tunnel",
        IPIP,
        foreign("iifname dsr-ipip drop"),
        no_foreign,
        "lost",
        "firewall_behind_tunnel",
        nftables=True,
    ),
    Fault(
        "a firewall drops what goes into the tunnel",
        IPIP,
        foreign("ip protocol 4 drop"),
        no_foreign,
        "lost",
        "firewall_before_tunnel",
        nftables=True,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_is_seen_and_nothing_gets_out(fault: Fault, held: Agent) -> None:
    if fault.nftables and not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    fault.breaking()
    try:
        before = icmp()
        code, rows = probe(held, fault.vip)
        assert (code, rows[fault.vip]["result"], rows[fault.vip]["suspect"]) == (1, fault.result, fault.suspect), rows
        assert fault.text in rows[fault.vip]["text"]
        assert icmp() == before, "neither the balancer nor anybody else is told by ICMP"
    finally:
        fault.mending()


def test_what_it_refuses_to_send_would_have_told_the_balancer(held: Agent) -> None:
    """The check of the check above: without a tunnel the kernel does answer the load balancer."""
    ip(RS1, "link del dsr-ipip")
    before = icmp()
    with pytest.raises(OSError, match=r"timed out|refused"):
        ask_udp(IPIP, PORT, timeout=1.0)
    assert icmp() != before


def test_without_a_default_route_nothing_is_said(held: Agent) -> None:
    ip(RS1, "route del default")
    try:
        rows = probe(held, IPIP)[1]
        assert (rows[IPIP]["result"], rows[IPIP]["suspect"]) == ("unknown", None)
    finally:
        ip(RS1, "route add default via 10.3.0.1")


# --- readiness --------------------------------------------------------------------------------------------------------


def ready(agent: Agent, path: str = "/readyz") -> bool:
    return get(agent, path)[0] == 200


def test_readyz_falls_with_the_last_of_the_declared_losses_and_comes_back(agent: Agent) -> None:
    """The agent cannot repair this fault: only the self-test sees it."""
    wait_for(lambda: ready(agent) and metric(agent, "dsr_probe_success") == len(WHERE), "every VIP is reached")
    before, mark, pages = metric(agent, LOST), agent.mark(), [""]

    def fallen() -> bool:
        pages.append(get(agent, "/metrics")[1])
        return on_page(pages[-1], f'dsr_vip_ready{{vip="{IPIP}"}}') == 0

    on_server(*ASIDE)()
    try:
        wait_for(fallen, "the VIP not to be ready")
        # One pair is concerned. A page is told first how many were lost, and then who is ready.
        assert all(on_page(page, LOST) - before < FALL for page in pages[:-1])
        assert metric(agent, LOST) - before >= FALL
        agent.wait_log("self-test: ", mark)
        status, body = get(agent, "/readyz")
        assert (status, f"{IPIP}/32 on lo: self-test by dsr-ipip: did not arrive" in body) == (503, True)
        assert get(agent, f"/readyz/{IPIP}") == (status, body)
        assert ready(agent, f"/readyz/{GRE}")
        assert metric(agent, f'dsr_vip_ready{{vip="{IPIP}"}}') == 0
        assert metric(agent, "dsr_vip_ready") == metric(agent, "dsr_probe_success") == len(WHERE) - 1
        told = f"  VIP {IPIP} by dsr-ipip: did not arrive"
        wait_for(lambda: told in agent.call("status").stdout, "status to say so")
        assert agent.call("plan").returncode == 0, "for the reconciler all is as the file says"
    finally:
        on_server(*BACK)()
    wait_for(lambda: ready(agent), "200 again")
    agent.wait_log("arrives again", mark)
    assert metric(agent, "dsr_vip_ready") == len(WHERE)


def test_a_vip_without_its_local_route_is_not_ready(agent: Agent) -> None:
    """The address is there, so the reconciler sees nothing; the kernel takes no packet for it."""
    wait_for(lambda: metric(agent, "dsr_probe_success") == len(WHERE), "every VIP is reached")
    ip(RS1, f"route del table local local {GRE} dev lo")
    try:
        wait_for(lambda: not ready(agent, f"/readyz/{GRE}"), "503")
        assert "the VIP is not on this host" in get(agent, "/readyz")[1]
    finally:
        ip(RS1, f"route add table local local {GRE} dev lo scope host src {GRE}")
    wait_for(lambda: ready(agent), "200 again")


def test_what_is_repaired_at_once_makes_nobody_unready(server: Eye, agent: Agent) -> None:
    wait_for(lambda: metric(agent, "dsr_probe_success") == len(WHERE), "every VIP is reached")
    for line in ("link del dsr-gre", f"address del {IPIP}/32 dev lo", "link set dsr-ipip down"):
        before = server.view()
        ip(RS1, line)
        server.until_again(before)
    sent = metric(agent, "dsr_probe_sent_packets_total")
    wait_for(lambda: metric(agent, "dsr_probe_sent_packets_total") > sent + 20, "more of the self-test")
    assert "self-test: " not in agent.log()
    assert ready(agent)


# --- whether there is one ---------------------------------------------------------------------------------------------

NOT_RAW = ("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin")


def test_without_the_right_it_says_so_once_and_goes_on(server: Eye) -> None:
    with Agent(RS1, CONFIG, wrapper=NOT_RAW) as agent:
        agent.wait_log("no self-test: ")
        assert agent.log().count("CAP_NET_RAW") == 1
        assert ready(agent)
        wait_for(lambda: "no self-test: " in agent.call("status").stdout, "status to say so")
        done = agent.call("probe")
        assert (done.returncode, "CAP_NET_RAW" in done.stderr) == (1, True)
        assert metric(agent, "dsr_probe_running") == 0


def test_the_file_switches_it_off_and_on(agent: Agent) -> None:
    wait_for(lambda: metric(agent, "dsr_probe_success") == len(WHERE), "every VIP is reached")
    agent.reload(CONFIG.replace("[probe]\n", "[probe]\nenabled = false\n"))
    wait_for(lambda: metric(agent, "dsr_probe_running") == 0, "no self-test")
    assert "dsr_probe_success{" not in get(agent, "/metrics")[1]
    agent.reload(CONFIG)
    wait_for(lambda: metric(agent, "dsr_probe_success") == len(WHERE), "every VIP is reached")
    assert sysctl(RS1, "ipv4/conf/dsr-ipip/rp_filter") == "2"
    assert set(VIPS) <= set(WHERE)
