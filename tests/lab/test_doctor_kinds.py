"""The doctor before every encapsulation on a real kernel: what is sent and what is broken, over IPv4 and IPv6."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab import vendors
from tests.lab.agent import Agent, has_inet_tables, tunnel, vip
from tests.lab.guarded import nft
from tests.lab.marking import send_marked
from tests.lab.marks import MOSTLY_FAST
from tests.lab.spaces import inside, ip, run, udp_socket
from tests.lab.traffic import Stream, ask_udp, echoes
from tests.lab.world import (
    BALANCER_IP,
    BALANCER_IP6,
    RS1,
    SERVER_IP,
    SERVER_IP6,
    Sender,
    Virtual,
    route,
    world,
)
from tests.lab.wrapper import Wrapper

PORT = 7001
HERE, HERE6 = SERVER_IP[RS1], SERVER_IP6[RS1]
OTHER6 = "fd00:3::111"

# How each VIP's requests are wrapped.
IPIP6, IPIP6_V6, GUE, GUE6, IPIP = "192.0.2.30", "2001:db8:f::31", "192.0.2.32", "192.0.2.33", "192.0.2.34"
KEYED6, LIMIT6, FOU6, FOU = "192.0.2.35", "192.0.2.36", "2001:db8:f::37", "192.0.2.38"
VIRTUALS = (
    Virtual(IPIP6, "ipip", 6),
    Virtual(IPIP6_V6, "ipip", 6),
    Virtual(GUE, "gue"),
    Virtual(GUE6, "gue", 6),
    Virtual(IPIP, "ipip"),
)
LINKS = {KEYED6: Sender("ip6gre", 6, "okey 8 ikey 4711"), LIMIT6: Sender("ip6tnl", 6, "encaplimit 4 mode any")}
MADE = {FOU6: vendors.fou(6), FOU: vendors.fou(4)}
ALL = (*(virtual.address for virtual in VIRTUALS), *LINKS, *MADE)


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[None]:
    """A balancer that sends in all these ways, and a service on each VIP."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world(VIRTUALS))
        for number, (address, sender) in enumerate(LINKS.items()):
            sender.make(RS1, f"s{number}")
            route(address, f"s{number}")
        for number, (address, made) in enumerate(MADE.items()):
            stack.enter_context(Wrapper(f"w{number}", made.wrap))
            route(address, f"w{number}")
        stack.enter_context(echoes(RS1, ALL, [PORT]))
        yield


@contextlib.contextmanager
def asked(*addresses: str) -> Iterator[None]:
    """A client asks these VIPs, whatever becomes of it."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(Stream(address, PORT, 20))
        yield


def of(kind: str, version: int, *addresses: str, **values: object) -> str:
    """A tunnel, and VIPs that expect their requests from it."""
    name = f"dsr-{kind}{'' if version == 4 else '6'}"
    values = {"load_balancers": [BALANCER_IP if version == 4 else BALANCER_IP6], **values}
    vips = [vip(address, tunnels=[name], services=[f"udp/{PORT}"]) for address in addresses]
    return tunnel(kind, **values) + "".join(vips)


def doctor(agent: Agent, *names: str) -> tuple[int, dict[str, Any]]:
    """``dsr-agent doctor --json``: its exit code, and what it says."""
    done = agent.call("doctor", *names, "--seconds", "2", "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def stages(said: dict[str, Any], address: str) -> dict[str, dict[str, Any]]:
    return {each["stage"]: each for each in said["vips"][address]}


# --- health -----------------------------------------------------------------------------------------------------------

# Links of Linux put an encapsulation limit into the outer IPv6 header (8 bytes), IPVS does not.
FITS = {IPIP6: 1460, IPIP6_V6: 1460, KEYED6: 1444, GUE: 1460, GUE6: 1440}


@pytest.mark.usefixtures("server")
def test_a_healthy_server_of_every_kind_gets_a_clean_bill() -> None:
    config = of("ipip", 6, IPIP6, IPIP6_V6) + of("gre", 6, KEYED6, key=8) + of("gue", 4, GUE) + of("gue", 6, GUE6)
    with Agent(RS1, config) as agent, asked(*FITS):
        agent.says()
        code, said = doctor(agent)
        assert (code, said["causes"]) == (0, []), said["causes"]
        for address, room in FITS.items():
            arriving = stages(said, address)["arriving"]
            assert f"from {BALANCER_IP if address == GUE else BALANCER_IP6} in" in arriving["saw"], arriving
            assert stages(said, address)["mtu"]["saw"].startswith(f"{room} bytes fit"), address
        print(agent.call("doctor", GUE6, "--seconds", "1").stdout)


@pytest.mark.usefixtures("server")
def test_fou_and_an_encapsulation_limit_get_one_too() -> None:
    """What fits is what is really left."""
    config = of("ipip", 6, LIMIT6) + of("fou", 6, FOU6, port=6080) + of("fou", 4, FOU, port=6080)
    with Agent(RS1, config) as agent, asked(LIMIT6, FOU6, FOU):
        agent.says()
        code, said = doctor(agent)
        assert (code, said["causes"]) == (0, []), said["causes"]
        assert stages(said, LIMIT6)["mtu"]["saw"].startswith("1452 bytes fit into 1500")
        assert stages(said, FOU6)["mtu"]["saw"].startswith("1452 bytes fit into 1500")


# --- what the load balancer sends -------------------------------------------------------------------------------------

SENDS = [
    (IPIP6, of("ipip", 4, IPIP6), "balancer_sends_other", f'"ipip" and load_balancers = ["{BALANCER_IP6}"]'),
    (IPIP, of("ipip", 6, IPIP), "balancer_sends_other", f'"ipip" and load_balancers = ["{BALANCER_IP}"]'),
    (IPIP6, of("gre", 6, IPIP6), "balancer_sends_other", 'write encapsulation = "ipip" in [[tunnel]] dsr-gre6'),
    (IPIP6, of("ipip", 6, IPIP6, local=OTHER6), "balancer_sends_elsewhere", f'write local = "{HERE6}"'),
    (IPIP6, of("ipip", 6, IPIP6, load_balancers=["fd00:2::99"]), "guard_refuses_source", f'add "{BALANCER_IP6}" to'),
    (KEYED6, of("gre", 6, KEYED6, key=7), "balancer_sends_key", "write key = 8 in [[tunnel]] dsr-gre6"),
    (KEYED6, of("gre", 6, KEYED6, key=8, checksum=True), "balancer_sends_checksum", "write checksum = false"),
    (GUE, of("gue", 4, GUE, port=6081), "balancer_sends_port", "write port = 6080 in [[tunnel]] dsr-gue"),
    (FOU6, of("fou", 6, FOU6, port=5555), "balancer_sends_port", "write port = 6080 in [[tunnel]] dsr-fou6"),
    (GUE, of("gre", 4, GUE), "balancer_sends_other", 'write encapsulation = "gue" and port = 6080 in'),
]
# What the kernel takes all the same, where there is no guard: then it is a warning.
TAKEN = [
    (GUE, of("fou", 4, GUE, port=6080), "balancer_sends_other", 'write encapsulation = "gue" and port = 6080 in'),
    (GUE6, of("fou", 6, GUE6, port=6080), "balancer_sends_other", 'write encapsulation = "gue" and port = 6080 in'),
    (FOU6, of("gue", 6, FOU6), "balancer_sends_other", 'write encapsulation = "fou" and port = 6080 in'),
    (
        IPIP,
        of("gue", 4, IPIP),
        "balancer_sends_other",
        'write encapsulation = "ipip" in [[tunnel]] dsr-gue (without port)',
    ),
]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("case", [*SENDS, *TAKEN], ids=lambda case: f"{case[2]} {case[0]} {case[3].replace(' ', '-')}")
def test_a_file_that_does_not_say_what_is_sent(case: tuple[str, str, str, str]) -> None:
    address, config, cause, remedy = case
    elsewhere = cause == "balancer_sends_elsewhere"
    with contextlib.ExitStack() as stack:
        if elsewhere:
            ip(RS1, f"address add {OTHER6}/64 dev eth0 nodad")
            stack.callback(ip, RS1, f"address del {OTHER6}/64 dev eth0")
        agent = stack.enter_context(Agent(RS1, config))
        stack.enter_context(asked(address))
        code, said = doctor(agent)
    first = said["causes"][0]
    fault = case not in TAKEN or has_inet_tables()
    seen = first["cause"], first["result"], code
    assert seen == (cause, "fault" if fault else "warning", int(fault)), said["causes"]
    assert remedy in first["remedy"]
    assert any("captured" in text for text in first["evidence"])
    assert {each["cause"] for each in said["causes"] if each["result"] == "fault"} <= {cause}


# --- what is broken on the server -------------------------------------------------------------------------------------


def commands(*lines: str) -> Callable[[], object]:
    """On the real server."""

    def do() -> None:
        with inside(RS1):
            for line in lines:
                run(*line.split())

    return do


@dataclass(frozen=True)
class Fault:
    """How to break something (``dsr-agent apply`` mends it), and what the doctor says first of which VIP."""

    cause: str
    vip: str
    breaking: Callable[[], object]
    remedy: str = "dsr-agent apply"
    saw: str = ""
    evidence: str = ""
    undo: Callable[[], object] = field(default=lambda: None)

    def __str__(self) -> str:
        return f"{self.cause} {self.vip} {self.saw}".strip().replace(" ", "-")


BROKEN = of("ipip", 6, IPIP6, IPIP6_V6) + of("gre", 6, KEYED6, key=8) + of("gue", 4, GUE) + of("gue", 6, GUE6)
CLOSE, CLOSE6 = f"ip fou del port 6080 local {HERE}", f"ip -6 fou del port 6080 local {HERE6}"
FAULTS = [
    Fault("port_closed", GUE, commands(CLOSE), saw=f"UDP port 6080 of {HERE}", evidence="UdpNoPorts +"),
    Fault("port_closed", GUE6, commands(CLOSE6), saw=f"UDP port 6080 of {HERE6}", evidence="Udp6InCsumErrors +"),
    Fault(
        "port_taken",
        GUE,
        commands(CLOSE, f"ip fou add port 6080 ipproto 4 local {HERE}"),
        f"ip fou del port 6080 local {HERE}",
        undo=commands(CLOSE),
    ),
    Fault("tunnel_missing", IPIP6, commands("ip link del dsr-ipip6")),
    Fault(
        "tunnel_other",
        IPIP6,
        commands(
            "ip link del dsr-ipip6",
            f"ip link add dsr-ipip6 type ip6tnl mode ipip6 local {HERE6} remote ::",
            "ip link set dsr-ipip6 group 54741",
            "ip link set dsr-ipip6 up",
        ),
        saw="takes only IPv4 inside",
    ),
    Fault("tunnel_other", KEYED6, commands(f"ip link change dsr-gre6 type ip6gre local {HERE6} key 9")),
    Fault("tunnel_down", KEYED6, commands("ip link set dsr-gre6 down"), "ip link set dsr-gre6 up"),
    Fault(
        "tunnel_masked",
        IPIP6,
        commands("ip link set dsr-ipip6 down", "ip link set ip6tnl0 up"),
        undo=commands("ip link set ip6tnl0 down"),
    ),
]


@pytest.fixture(scope="module")
def stopped(server: None) -> Iterator[Agent]:
    """An agent that has done its work, and stopped: what is broken stays so."""
    with Agent(RS1, BROKEN) as agent:
        agent.stop()
        yield agent


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_named_first_with_what_mends_it(fault: Fault, stopped: Agent) -> None:
    fault.breaking()
    try:
        with asked(fault.vip):
            code, said = doctor(stopped)
    finally:
        fault.undo()
        done = stopped.call("apply")
    assert done.returncode == 0, done.stdout
    first = said["causes"][0]
    assert (code, first["cause"], first["result"]) == (1, fault.cause, "fault"), said["causes"]
    assert fault.remedy in first["remedy"]
    assert fault.saw in first["saw"], first
    assert not fault.evidence or any(fault.evidence in text for text in first["evidence"]), first
    concerned = {address for address, rows in said["vips"].items() if any(row["result"] == "fault" for row in rows)}
    assert fault.vip in concerned
    assert ask_udp(fault.vip, PORT).server == RS1


def test_a_program_that_has_the_port(stopped: Agent) -> None:
    commands(CLOSE6)()
    with udp_socket(RS1, 10) as other:
        other.bind((HERE6, 6080))
        code, said = doctor(stopped, GUE6)
    assert (code, said["causes"][0]["cause"]) == (1, "port_taken"), said["causes"]
    assert f"[{HERE6}]:6080" in said["causes"][0]["saw"]
    assert stopped.call("apply").returncode == 0
    assert doctor(stopped, GUE6)[1]["ok"]


# --- without a tunnel -------------------------------------------------------------------------------------------------

MARKED = "192.0.2.40"


@pytest.mark.usefixtures("server")
def test_code_points_and_the_rules_that_read_them() -> None:
    if not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    send_marked([(MARKED, RS1, 9)])
    file = '[[tunnel]]\nencapsulation = "dscp"\n' + vip(MARKED, dscp=7, services=[f"udp/{PORT}"])
    with Agent(RS1, file) as agent, Stream(MARKED, PORT, 20):
        code, said = doctor(agent)
        assert (code, said["causes"][0]["cause"]) == (1, "balancer_sends_code_point"), said["causes"]
        assert "write dscp = 9" in said["causes"][0]["remedy"]
        agent.reload(file.replace("dscp = 7", "dscp = 9"))
        code, said = doctor(agent)
        assert stages(said, MARKED)["arriving"]["result"] == "ok", said
        agent.stop()
        nft("delete", "table", "inet", "dsr_agent")
        code, said = doctor(agent)
        assert (code, said["causes"][0]["cause"]) == (1, "tunnel_missing"), said["causes"]
