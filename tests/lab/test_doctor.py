"""The doctor on a real kernel, while traffic runs: a healthy server gets a clean bill, each fault is named first."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab.agent import Agent, has_inet_tables, tunnel, vip
from tests.lab.guarded import nft
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import GRE, GRE6, IPIP, PORT, real_server
from tests.lab.spaces import ip_batch, set_sysctls, udp_socket
from tests.lab.traffic import Stream
from tests.lab.world import BALANCER_IP, CLIENT_IP, RS1, SERVER_IP

SERVICE = [f"udp/{PORT}"]
OF_IPIP = vip(IPIP, tunnels=["dsr-ipip"], services=SERVICE)
OF_GRE = vip(GRE, tunnels=["dsr-gre"], services=SERVICE) + vip(GRE6, tunnels=["dsr-gre"], services=SERVICE)
CONFIG = tunnel("ipip") + tunnel("gre") + OF_IPIP + OF_GRE
SYSCTL_FILE = Path("/etc/sysctl.d/50-lab.conf")


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[None]:
    with real_server():
        yield


@pytest.fixture
def traffic(server: None) -> Iterator[None]:
    """A client asks all VIPs, whatever becomes of it."""
    with contextlib.ExitStack() as stack:
        for address in (IPIP, GRE, GRE6):
            stack.enter_context(Stream(address, PORT, 20))
        yield


def doctor(agent: Agent, *names: str) -> tuple[int, dict[str, Any]]:
    """``dsr-agent doctor --json``: its exit code, and what it says."""
    done = agent.call("doctor", *names, "--seconds", "2", "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def causes(said: dict[str, Any]) -> list[str]:
    return [each["cause"] for each in said["causes"]]


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("traffic")
def test_a_healthy_server_gets_a_clean_bill() -> None:
    with Agent(RS1, CONFIG) as agent:
        agent.says()
        code, said = doctor(agent)
        assert (code, said["ok"], said["causes"]) == (0, True, []), said
        for address, name in ((IPIP, "dsr-ipip"), (GRE, "dsr-gre"), (GRE6, "dsr-gre")):
            stages = {each["stage"]: each for each in said["vips"][address]}
            assert f"from {BALANCER_IP}" in stages["arriving"]["saw"]
            assert {each["tunnel"] for each in stages.values()} <= {None, name}
            unclear = {stage for stage, each in stages.items() if each["result"] != "ok"}
            assert unclear == (set() if has_inet_tables() else {"guard", "mtu"})
        text = agent.call("doctor", IPIP, "--seconds", "1").stdout
        print(text)
        assert text.endswith("nothing is wrong\n")
        assert f"{CLIENT_IP} by eth0" in text


@pytest.mark.usefixtures("server")
def test_silence_is_a_warning_with_a_reason() -> None:
    """A balancer that never sends and a network that keeps it back look alike from here."""
    with Agent(RS1, tunnel("ipip") + OF_IPIP) as agent:
        agent.says()
        code, said = doctor(agent)
        assert (code, causes(said)) == (0, ["nothing_arrives"])
        assert "protocol 4" in said["causes"][0]["remedy"]


# --- what the load balancer sends -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize(
    ("config", "address", "cause", "remedy"),
    [
        (tunnel("gre", key=7) + OF_GRE, GRE, "balancer_sends_key", "remove the key"),
        (tunnel("gre", checksum=True) + OF_GRE, GRE, "balancer_sends_checksum", "write checksum = false"),
        (tunnel("gre", name="dsr-ipip") + OF_IPIP, IPIP, "balancer_sends_other", 'write encapsulation = "ipip"'),
        (
            tunnel("ipip", load_balancers=["10.2.0.99"]) + OF_IPIP,
            IPIP,
            "guard_refuses_source",
            f'add "{BALANCER_IP}" to load_balancers',
        ),
        (
            tunnel("ipip", local="10.3.0.111") + OF_IPIP,
            IPIP,
            "balancer_sends_elsewhere",
            f'write local = "{SERVER_IP[RS1]}"',
        ),
        (
            tunnel("ipip") + vip("192.0.2.77", tunnels=["dsr-ipip"]),
            "192.0.2.77",
            "guard_refuses_inner",
            f'add [[vip]] address = "{IPIP}"',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.islower() and " " not in value else "",
)
def test_a_file_that_does_not_say_what_is_sent(config: str, address: str, cause: str, remedy: str) -> None:
    ip_batch(RS1, ["address add 10.3.0.111/24 dev eth0"])
    try:
        with Agent(RS1, config) as agent:
            code, said = doctor(agent, *([] if cause == "guard_refuses_inner" else [address]))
        if cause == "guard_refuses_inner" and not has_inet_tables():
            return  # nobody refuses it
        assert (code, said["causes"][0]["cause"]) == (1, cause), said["causes"]
        assert remedy in said["causes"][0]["remedy"]
        assert said["causes"][0]["evidence"]
    finally:
        ip_batch(RS1, ["address del 10.3.0.111/24 dev eth0"])


# --- what is broken on the server -------------------------------------------------------------------------------------


def on_server(*lines: str) -> Callable[[], object]:
    """``ip`` commands on the real server."""
    return lambda: ip_batch(RS1, lines)


def rp_filter(value: int) -> Callable[[], object]:
    return lambda: set_sysctls(RS1, {"ipv4/conf/dsr-ipip/rp_filter": value})


def rp_filter_by_file() -> object:
    SYSCTL_FILE.parent.mkdir(exist_ok=True)
    SYSCTL_FILE.write_text("# strict\nnet.ipv4.conf.*.rp_filter = 1\n")
    return rp_filter(1)()


def rp_filter_back() -> object:
    SYSCTL_FILE.unlink()
    return rp_filter(2)()


def foreign(hook: str, rule: str) -> Callable[[], object]:
    """A rule of another firewall."""
    table = f"table inet other {{\nchain dropping {{\ntype filter hook {hook};\n{rule}\n}}\n}}\n"
    return lambda: nft("-f", "-", given=table)


def no_foreign() -> object:
    return nft("delete", "table", "inet", "other")


@dataclass(frozen=True)
class Fault:
    """How to break something and mend it, and what the doctor says first of which VIP."""

    cause: str
    vip: str
    breaking: Callable[[], object]
    mending: Callable[[], object] = field(default=lambda: None)
    remedy: str = "dsr-agent apply"
    evidence: str = ""
    nftables: bool = False
    what: str = ""


ASIDE = ("rule add pref 10 lookup local", "rule del pref 0 lookup local", "rule add pref 5 iif dsr-ipip blackhole")
BACK = ("rule del pref 5", "rule add pref 0 lookup local", "rule del pref 10")

FAULTS = [
    Fault("tunnel_missing", IPIP, on_server("link del dsr-ipip"), evidence="IcmpOutDestUnreachs +"),
    Fault("tunnel_down", GRE, on_server("link set dsr-gre down"), remedy="ip link set dsr-gre up"),
    Fault(
        "tunnel_masked",
        IPIP,
        on_server("link set dsr-ipip down", "link set tunl0 up"),
        on_server("link set tunl0 down"),
    ),
    Fault(
        "tunnel_masked",
        IPIP,
        on_server(f"link add spy type ipip local {SERVER_IP[RS1]} remote {BALANCER_IP}", "link set spy up"),
        on_server("link del spy"),
        remedy="ip link del spy",
        what="by a closer tunnel",
    ),
    Fault("tunnel_other", GRE, on_server(f"link change dsr-gre type gre local {SERVER_IP[RS1]} key 9")),
    Fault("vip_missing", GRE6, on_server(f"address del {GRE6}/128 dev lo"), evidence="Ip6InAddrErrors +"),
    Fault("vip_missing", IPIP, on_server(f"address del {IPIP}/32 dev lo"), evidence="IpInAddrErrors +"),
    Fault(
        "vip_missing",
        GRE,
        on_server(f"route del table local local {GRE} dev lo"),
        on_server(f"route add table local local {GRE} dev lo scope host src {GRE}"),
        remedy=f"ip route add local {GRE} dev lo table local",
        what="its route",
    ),
    Fault(
        "reverse_path",
        IPIP,
        rp_filter(1),
        rp_filter(2),
        remedy="sysctl -w net/ipv4/conf/dsr-ipip/rp_filter=2",
        evidence="TcpExtIPReversePathFilter +",
    ),
    Fault(
        "reverse_path_sysctl_d",
        IPIP,
        rp_filter_by_file,
        rp_filter_back,
        remedy=f"into {SYSCTL_FILE} after line 2",
        evidence="TcpExtIPReversePathFilter +",
    ),
    Fault(
        "no_client_route",
        IPIP,
        on_server("route del default"),
        on_server("route add default via 10.3.0.1"),
        remedy="ip route add default via",
        evidence="TcpExtIPReversePathFilter +",
    ),
    Fault(
        "way_back_missing",
        GRE6,
        on_server("route del default via fd00:3::1"),
        on_server("route add default via fd00:3::1"),
        remedy="ip -6 route add default via",
    ),
    Fault(
        "way_back_rule",
        IPIP,
        on_server(f"rule add pref 20 from {IPIP} unreachable"),
        on_server("rule del pref 20"),
        remedy="ip rule del pref 20",
    ),
    Fault("vip_rule", IPIP, on_server(*ASIDE), on_server(*BACK), remedy="ip rule del pref 5"),
    Fault(
        "firewall_drops",
        IPIP,
        foreign("prerouting priority -400", "iifname dsr-ipip drop"),
        no_foreign,
        remedy=f"nft insert rule inet other dropping ip daddr {IPIP} accept",
        nftables=True,
    ),
    Fault(
        "firewall_drops",
        IPIP,
        foreign("input priority 0", "iifname eth0 ip protocol 4 drop"),
        no_foreign,
        remedy=f"nft insert rule inet other dropping ip saddr {BALANCER_IP} ip daddr {SERVER_IP[RS1]} accept",
        nftables=True,
        what="at the card",
    ),
]


@pytest.fixture
def held(server: None) -> Iterator[Agent]:
    """An agent that repairs nothing for now: what is broken stays so."""
    with Agent(RS1, CONFIG) as agent:
        agent.settle()
        assert agent.process
        os.kill(agent.process.pid, signal.SIGSTOP)
        yield agent
        os.kill(agent.process.pid, signal.SIGCONT)


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: " ".join([fault.cause, fault.vip, fault.what]))
def test_a_fault_is_named_first_with_what_mends_it(fault: Fault, held: Agent) -> None:
    if fault.nftables and not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    fault.breaking()
    try:
        code, said = doctor(held)
    finally:
        fault.mending()
    first = said["causes"][0]
    assert (code, first["cause"], first["result"]) == (1, fault.cause, "fault"), said["causes"]
    assert fault.remedy in first["remedy"]
    assert not fault.evidence or any(fault.evidence in text for text in first["evidence"]), first
    faults = {each["cause"] for each in said["causes"] if each["result"] == "fault"}
    assert faults == {fault.cause}, said["causes"]
    concerned = {address for address, rows in said["vips"].items() if any(row["result"] == "fault" for row in rows)}
    alike = {IPIP} if fault.vip == IPIP else {GRE, GRE6} if fault.cause.startswith("tunnel") else {fault.vip}
    if fault.cause != "no_client_route":
        assert concerned == alike
    assert "agent_stuck" in causes(said)


@pytest.mark.usefixtures("traffic")
def test_without_an_agent_and_without_the_module() -> None:
    """The module is the root, and what follows from it is not told as well."""
    if os.environ.get("DSR_LAB") == "here":
        pytest.skip("the modules here are the host's own")
    with Agent(RS1, CONFIG) as agent:
        agent.stop()
        blacklist = Path("/etc/modprobe.d/lab.conf")
        blacklist.parent.mkdir(exist_ok=True)
        blacklist.write_text("blacklist sit\nblacklist ipip\n")
        try:
            ip_batch(RS1, ["link del dsr-ipip"])
            os.system("modprobe -r sit; modprobe -r ipip")
            code, said = doctor(agent, IPIP)
            assert (code, causes(said)) == (1, ["module_forbidden", "agent_not_running"]), said
            assert f"{blacklist}, line " in said["causes"][0]["saw"]
            assert any("IcmpOutDestUnreachs +" in text for text in said["causes"][0]["evidence"])
            blacklist.unlink()
            code, said = doctor(agent, IPIP)
            assert said["causes"][0]["cause"] == "module_missing"
            assert said["causes"][0]["remedy"] == "modprobe sit"
        finally:
            blacklist.unlink(missing_ok=True)
            agent.call("apply")
        assert doctor(agent, IPIP)[1]["ok"]


# --- the application --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("traffic")
def test_who_does_not_listen_and_who_answers_from_a_wrong_address() -> None:
    port = 7000
    config = tunnel("ipip") + vip(IPIP, services=[f"udp/{port}"])
    with Agent(RS1, config) as agent, contextlib.ExitStack() as sockets:
        agent.says()
        code, said = doctor(agent)
        assert (code, causes(said)) == (1, ["not_listening"])
        with udp_socket(RS1) as made:
            made.bind((SERVER_IP[RS1], port))
            assert causes(doctor(agent)[1]) == ["listening_elsewhere"]
        wildcard = sockets.enter_context(udp_socket(RS1))
        wildcard.bind(("0.0.0.0", port))
        wildcard.settimeout(5)
        code, said = doctor(agent)
        assert (code, causes(said)) == (0, ["listening_wildcard"])
        # The balancer sends every second client to the other real server.
        with Stream(IPIP, port, 20), Stream(IPIP, port, 20), answering(wildcard):
            code, said = doctor(agent)
        assert (code, causes(said)) == (1, ["answers_wrong_address"])
        assert said["causes"][0]["saw"].startswith(f"{SERVER_IP[RS1]} answered {CLIENT_IP} from port {port}")


@contextlib.contextmanager
def answering(server: socket.socket) -> Iterator[None]:
    """Answers as a server does that does not know of IP_PKTINFO."""
    import threading

    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                data, client = server.recvfrom(2048)
                server.sendto(data, client)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("server")
def test_thousands_of_vips_are_told_as_one() -> None:
    many = "".join(vip(f"198.18.{number // 250}.{number % 250 + 1}") for number in range(2000))
    with Agent(RS1, tunnel("ipip") + many) as agent:
        text = agent.call("doctor", "--seconds", "1").stdout
        assert "VIP 198.18.0.1 and 1,999 more VIPs\n" in text
        assert "the self-test was sent to 64 of 2000 VIPs" in text
