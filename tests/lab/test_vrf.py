"""A real server whose card and VIPs are in a VRF: every encapsulation, drift, the guard, and a VRF that goes away."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.lab import forge
from tests.lab.agent import Agent, agent_settings, has_inet_tables, tunnel, vip, wait_for
from tests.lab.guarded import need_guard, nft, refusing
from tests.lab.ledger import Ledger
from tests.lab.marking import send_marked
from tests.lab.marks import BOTH, NOT_UNDER_EMULATION
from tests.lab.servers import clean
from tests.lab.spaces import inside, ip_batch, run, set_sysctls, within
from tests.lab.traffic import Answer, Stream, ask_tcp, ask_udp, client_ip, echoes
from tests.lab.world import BALANCER, BALANCER_IP6, CLIENT, ROUTER, RS1, SERVER_IP, SERVER_IP6, Virtual, world

VRF = "blue"
PORT, HTTP = 7001, 9177
HERE, HERE6 = SERVER_IP[RS1], SERVER_IP6[RS1]
MADE = ["link add blue type vrf table 100", "link set blue up", "link set eth0 master blue"]
# What a card loses when it is put into a VRF: its routes, and its IPv6 addresses.
JOINED = [
    f"address replace {HERE6}/64 dev eth0 nodad",
    "route replace default via 10.3.0.1 vrf blue",
    "route replace default via fd00:3::1 vrf blue",
]
VIRTUALS = (
    Virtual("192.0.2.10", "ipip"),
    Virtual("2001:db8:f::10", "ipip"),
    Virtual("192.0.2.11", "gre"),
    Virtual("2001:db8:f::11", "gre", 6),
    Virtual("192.0.2.12", "gue", 6),
    Virtual("2001:db8:f::12", "gue"),
    Virtual("2001:db8:f::13", "ipip", 6),
)
ADDRESSES = [virtual.address for virtual in VIRTUALS]
# Those of IP in IP first: GUE's share their links, which are named for the first of them.
TUNNELS = sorted({(virtual.wrap, virtual.outer) for virtual in VIRTUALS}, key=lambda tunnel: tunnel[0] != "ipip")


def _tunnel(wrap: str, outer: int, **more: object) -> str:
    senders = {} if outer == 4 else {"load_balancers": [BALANCER_IP6]}
    return tunnel(wrap, **senders, **more)


CONFIG = (
    agent_settings(poll_interval=0.5)
    + "[probe]\ntimeout = 5\n"  # of packets by the dozen on a slow machine
    + f'[http]\nlisten = ["{HERE}%{VRF}:{HTTP}"]\n'
    + "".join(_tunnel(wrap, outer, vrf=VRF) for wrap, outer in TUNNELS)
    + "".join(vip(address, services=[f"udp/{PORT}", f"tcp/{PORT}"]) for address in ADDRESSES)
)
IN_SYNC = "in sync: nothing to do\n"


class Services:
    """Of the real server, in the VRF."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        """Again, if they run: a socket knows its VRF by a number, and a VRF that is made again has another one."""
        self._stack.close()
        self._stack.enter_context(echoes(RS1, ADDRESSES, [PORT], VRF))

    def close(self) -> None:
        """End them."""
        self._stack.close()


@pytest.fixture(scope="module", params=BOTH)
def server() -> Iterator[Services]:
    """The card of the first real server is in a VRF, and so are its services."""
    with world(VIRTUALS):
        ip_batch(RS1, MADE + JOINED)
        with contextlib.closing(Services()) as services:
            yield services


@pytest.fixture(scope="module")
def agent(server: Services) -> Iterator[Agent]:
    with Agent(RS1, CONFIG) as running:
        yield running


def do(command: str) -> None:
    """Another program, on the real server."""
    with inside(RS1):
        run(*command.split())


@pytest.mark.parametrize("ask", [ask_udp, ask_tcp])
@pytest.mark.parametrize("address", ADDRESSES)
def test_the_client_is_seen_and_answered_from_the_vip(
    address: str, ask: Callable[[str, int], Answer], agent: Agent
) -> None:
    assert ask(address, PORT) == Answer(client_ip(address), RS1, address)


def test_large_things_arrive_whole(agent: Agent) -> None:
    for address in ("192.0.2.10", "192.0.2.11"):
        assert ask_udp(address, PORT, bytes(4000)).server == RS1
        assert ask_tcp(address, PORT, bytes(range(256)) * 4096).server == RS1


def test_all_is_in_sync_and_ready(agent: Agent) -> None:
    assert agent.call("plan").stdout == IN_SYNC
    status = agent.status()
    assert {row["device"] for row in status["vips"]} == {VRF}
    assert agent.call("status").returncode == 0


def test_the_balancer_is_told_in_the_vrf(agent: Agent) -> None:
    """Its monitor goes to the server's own address, which is there, too."""

    def told() -> int:
        with contextlib.closing(http.client.HTTPConnection(HERE, HTTP, timeout=30)) as asking:
            try:
                asking.sock = within(BALANCER, lambda: socket.create_connection((HERE, HTTP), 30))
            except ConnectionRefusedError:  # HTTP comes after the first pass
                return 0
            asking.request("GET", "/readyz")
            return asking.getresponse().status

    wait_for(lambda: told() == 200, "ready")


def test_the_self_test_arrives(agent: Agent) -> None:
    rows = json.loads(agent.call("probe", "--json").stdout)["results"]
    assert len(rows) == len(ADDRESSES) * len(TUNNELS)
    lost = [f"{row['vip']} by {row['tunnel']}: {row['text']}" for row in rows if row["result"] != "arrived"]
    assert not lost, "\n".join(lost)


@NOT_UNDER_EMULATION
def test_the_doctor_finds_nothing(agent: Agent) -> None:
    """It asks the VRF's routes for the way back; and a link that is outside, it names."""
    with Stream("192.0.2.10", PORT, 20) as stream:
        stream.wait_answered(5)
        said = agent.call("doctor", "192.0.2.10", "--seconds", "2")
        assert said.returncode == 0, said.stdout
        assert "way_back     ok" in said.stdout
    agent.stop()
    do("ip link set dsr-ipip nomaster")
    said = agent.call("doctor", "192.0.2.10", "--seconds", "1")
    agent.start()
    assert (said.returncode, "to mend it: ip link set dsr-ipip master blue" in said.stdout) == (1, True), said.stdout


@NOT_UNDER_EMULATION
@pytest.mark.parametrize(
    ("command", "repaired", "address"),
    [
        ("ip link set dsr-ipip nomaster", "put into VRF blue again", "192.0.2.10"),
        ("ip link del dsr-gre6", "made again", "2001:db8:f::11"),
        ("ip address del 192.0.2.11/32 dev blue", "put back", "192.0.2.11"),
        (f"ip fou del port 6080 local {HERE} dev blue", "opened again", "2001:db8:f::12"),
        ("sysctl -qw net.ipv4.conf.dsr-gre.rp_filter=1", "set to 2", "192.0.2.11"),
    ],
)
def test_what_is_undone_is_put_back(command: str, repaired: str, address: str, agent: Agent, ledger: Ledger) -> None:
    with Stream(address, PORT, 50) as stream:
        stream.wait_answered(5)
        mark = agent.mark()
        do(command)
        agent.wait_log(repaired, mark)
        stream.wait_answered(10)
        tally = stream.finish()
    ledger.add(f"in a VRF: {command}", None, tally)
    assert tally.wrong == 0


@NOT_UNDER_EMULATION
def test_nothing_is_lost_while_the_agent_is_away(agent: Agent) -> None:
    with Stream("192.0.2.10", PORT, 50) as stream:
        stream.wait_answered(5)
        agent.stop(9)
        stream.wait_answered(5)
        agent.start()
        stream.wait_answered(5)
        assert clean(stream.finish())


def test_a_service_outside_of_the_vrf_is_none(agent: Agent) -> None:
    """It gets nothing of what arrives there, unless the kernel is told so."""
    with within(RS1, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outside:
        outside.bind(("0.0.0.0", 7009))
        agent.reload(CONFIG.replace("udp/7001", "udp/7009", 1))
        said = agent.call("status").stdout
        assert "start it in VRF blue (ip vrf exec blue PROGRAM)" in said
        set_sysctls(RS1, {"ipv4/udp_l3mdev_accept": 1})
        try:
            said = agent.call("status").stdout
            assert "start it in VRF" not in said
        finally:
            set_sysctls(RS1, {"ipv4/udp_l3mdev_accept": 0})
            agent.reload(CONFIG)


# --- without an outer header -----------------------------------------------------------------------------------------


def bare(encapsulation: str) -> str:
    """A tunnel that needs none."""
    return f'[[tunnel]]\nencapsulation = "{encapsulation}"\nvrf = "{VRF}"\n'


def test_requests_over_the_segment(agent: Agent) -> None:
    """As they are: the router has the VIP behind the server's own address."""
    for address, via in (("192.0.2.20", HERE), ("2001:db8:f::20", HERE6)):
        ip_batch(ROUTER, [f"route replace {address} via {via}"])
    added = "".join(vip(address, tunnels=["dsr-l2"]) for address in ("192.0.2.20", "2001:db8:f::20"))
    agent.reload(CONFIG + bare("l2") + added)
    with echoes(RS1, ["192.0.2.20", "2001:db8:f::20"], [PORT], VRF):
        for address in ("192.0.2.20", "2001:db8:f::20"):
            assert ask_udp(address, PORT) == Answer(client_ip(address), RS1, address)
    if has_inet_tables():
        assert _counted("plain4", "192.0.2.20") == 1
    agent.reload(CONFIG)


def test_requests_by_their_code_point(agent: Agent) -> None:
    """The VIP is written back where the packet arrives, and looked up in the VRF; no other address is meant."""
    need_guard()
    sent = (("192.0.2.21", RS1, 7), ("2001:db8:f::21", RS1, 7))
    send_marked(sent)
    agent.reload(CONFIG + bare("dscp") + "".join(vip(address, dscp=7, tunnels=["dsr-dscp"]) for address, *_ in sent))
    with echoes(RS1, [address for address, *_ in sent], [PORT], VRF):
        for address, *_ in sent:
            assert ask_udp(address, PORT) == Answer(client_ip(address), RS1, address)
    assert _counted("marked4", "192.0.2.21") == 1
    said = agent.call("probe", "192.0.2.21", "2001:db8:f::21")
    assert said.returncode == 0, said.stdout
    agent.reload(CONFIG)


# --- the guard --------------------------------------------------------------------------------------------------------


def _counted(name: str, text: str) -> int:
    found = json.loads(nft("-j", "list", "set", "inet", "dsr_agent", name))["nftables"]
    elements = next(item["set"] for item in found if "set" in item).get("elem", [])
    return sum(each["elem"]["counter"]["packets"] for each in elements if each["elem"]["val"] == text)


def test_a_packet_counts_once(agent: Agent) -> None:
    """Although it meets the rules twice, by its card and by the VRF."""
    need_guard()
    before = [_counted("vips4", "192.0.2.10"), _counted("from-dsr-ipip", "10.2.0.5")]
    for _ in range(3):
        ask_udp("192.0.2.10", PORT)
    assert [_counted("vips4", "192.0.2.10"), _counted("from-dsr-ipip", "10.2.0.5")] == [each + 3 for each in before]


def _request() -> bytes:
    client = "203.0.113.9"
    return forge.ip4(client, "192.0.2.10", forge.UDP, forge.udp(client, "192.0.2.10", PORT, b"forged"))


def _raw(space: str, device: str = "") -> socket.socket:
    with inside(space):
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return made


def test_a_stranger_is_refused_once(agent: Agent) -> None:
    need_guard()
    with refusing("source", 1), _raw(CLIENT) as stranger:
        stranger.sendto(_request(), (HERE, 0))


def test_what_this_host_sends_to_itself_in_the_vrf_is_refused(agent: Agent) -> None:
    """It comes by the VRF's own link, as a packet does that was seen before."""
    need_guard()
    with refusing("source", 1), _raw(RS1, VRF) as own:
        own.sendto(_request(), (HERE, 0))


def test_nothing_out_of_a_tunnel_is_forwarded(agent: Agent) -> None:
    """Not even to what was a VIP until now, on a host that forwards."""
    need_guard()
    set_sysctls(RS1, {"ipv4/ip_forward": 1})
    listed = nft("list", "chain", "inet", "dsr_agent", "forward")
    assert 'meta sdifname "dsr-ipip"' in listed
    with refusing("inner_destination", 1), _raw(BALANCER) as sender:
        request = forge.ip4("203.0.113.9", "192.0.2.99", forge.UDP, forge.udp("203.0.113.9", "192.0.2.99", 9, b"x"))
        sender.sendto(request, (HERE, 0))
    set_sysctls(RS1, {"ipv4/ip_forward": 0})


# --- the VRF itself ---------------------------------------------------------------------------------------------------


@NOT_UNDER_EMULATION
def test_a_vrf_that_goes_and_comes_back(server: Services, agent: Agent) -> None:
    """It is said what is missing; once it is there again, all is as before."""
    mark = agent.mark()
    do("ip link del blue")
    agent.wait_log("its VRF blue is not there", mark)
    assert "ip link add blue type vrf" in agent.call("status").stdout
    ip_batch(RS1, MADE + JOINED)
    agent.wait_log("in sync again", mark)
    server.start()
    for address in ADDRESSES:
        assert ask_udp(address, PORT) == Answer(client_ip(address), RS1, address)
    assert agent.call("plan").stdout == IN_SYNC
    wait_for(lambda: agent.call("probe").returncode == 0, "the self-test arrives again")


@NOT_UNDER_EMULATION
def test_out_of_the_vrf_and_into_it_by_reload(agent: Agent) -> None:
    """The port is opened anew where its packets arrive, and the links are moved."""
    do("ip link set eth0 nomaster")
    out_of = [line.replace("vrf blue", "") for line in JOINED]
    ip_batch(RS1, out_of)
    agent.reload(CONFIG.replace(f'vrf = "{VRF}"\n', ""))
    assert agent.call("plan").stdout == IN_SYNC
    with inside(RS1):
        assert VRF not in run("ip", "fou", "show")
    rows = json.loads(agent.call("probe", "--json").stdout)["results"]
    assert {row["result"] for row in rows} == {"arrived"}
    do("ip link set eth0 master blue")
    ip_batch(RS1, JOINED)
    agent.reload(CONFIG)
    assert agent.call("plan").stdout == IN_SYNC
    wait_for(lambda: agent.call("probe").returncode == 0, "the self-test arrives")


@NOT_UNDER_EMULATION
def test_only_what_is_inside_is_in_the_vrf(agent: Agent) -> None:
    """The card is outside, so the packets arrive there, at a port there; answers take the VRF's routes."""
    do("ip link set eth0 nomaster")
    out_of = [line.replace("vrf blue", "") for line in JOINED]
    leaked = [
        "route replace default via 10.3.0.1 dev eth0 vrf blue",
        "route replace default via fd00:3::1 dev eth0 vrf blue",
    ]
    ip_batch(RS1, out_of + leaked)
    outside = "".join(_tunnel(wrap, outer, vrf=VRF, local=HERE if outer == 4 else HERE6) for wrap, outer in TUNNELS)
    agent.reload(agent_settings(poll_interval=0.5) + outside + "".join(map(vip, ADDRESSES)))
    assert agent.call("plan").stdout == IN_SYNC
    for address in ADDRESSES:
        for ask in (ask_udp, ask_tcp):
            assert ask(address, PORT) == Answer(client_ip(address), RS1, address)
    wait_for(lambda: agent.call("probe").returncode == 0, "the self-test arrives")
    do("ip link set eth0 master blue")
    ip_batch(RS1, JOINED)
    agent.reload(CONFIG)


def test_teardown_leaves_nothing(agent: Agent) -> None:
    agent.stop()
    assert agent.call("teardown").returncode == 0
    with inside(RS1):
        assert "dsr" not in run("ip", "link", "show", "master", VRF)
        assert run("ip", "fou", "show") == ""
        assert "192.0.2." not in run("ip", "address", "show", "dev", VRF)
