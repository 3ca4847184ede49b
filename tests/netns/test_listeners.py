"""Who listens, as this kernel tells it of real sockets, and what the agent makes of it."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.kernel.sockets import Socket, SocketTable
from tests.netns.process import DEADLINE, Agent, get
from tests.netns.space import routed, sh

PORT = 7812
V4, V6 = "192.0.2.10", "2001:db8::10"
VIPS = f'[[vip]]\naddress = "{V4}"\nservices = ["udp/{PORT}", "tcp/{PORT}"]\n[[vip]]\naddress = "192.0.2.11"\n'


def bound(
    transport: str, address: str, port: int = PORT, *, only6: bool | None = None, device: str = ""
) -> socket.socket:
    """A socket that takes requests; ``::ffff:`` and a real IPv6 address alike are for IPv6 sockets."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if only6 is not None:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    made.bind((address, port))
    if transport == "tcp":
        made.listen()
    return made


@pytest.fixture
def table() -> Iterator[SocketTable]:
    """What is under test."""
    with contextlib.closing(SocketTable()) as made:
        yield made


@pytest.fixture
def vips() -> None:
    """Addresses to bind to."""
    sh(f"ip addr add {V4}/32 dev lo", f"ip addr add {V6}/128 dev lo nodad")
    routed(V6)  # who connects before keeps having none (37 of 600)


CASES: dict[str, tuple[dict[str, Any], Socket]] = {
    "v4": ({"address": V4}, Socket("?", PORT, ip_address(V4))),
    "v6": ({"address": V6}, Socket("?", PORT, ip_address(V6))),
    "v4 wildcard": ({"address": "0.0.0.0"}, Socket("?", PORT, ip_address("0.0.0.0"))),
    "dual stack": ({"address": "::", "only6": False}, Socket("?", PORT, ip_address("::"))),
    "v6 wildcard": ({"address": "::", "only6": True}, Socket("?", PORT, ip_address("::"), only6=True)),
    "mapped": ({"address": f"::ffff:{V4}", "only6": False}, Socket("?", PORT, ip_address(V4))),
    "mapped wildcard": ({"address": "::ffff:0.0.0.0", "only6": False}, Socket("?", PORT, ip_address("0.0.0.0"))),
    "device": ({"address": "0.0.0.0", "device": "lo"}, Socket("?", PORT, ip_address("0.0.0.0"), device="lo")),
}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("case", CASES)
def test_a_socket_is_read_as_it_was_bound(case: str, transport: str, table: SocketTable, vips: None) -> None:
    how, expected = CASES[case]
    with bound(transport, **how):
        found = table.read(["tcp", "udp"], {PORT}, ipv4=True)
    assert found == [expected._replace(transport=transport)]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "device"])
@pytest.mark.parametrize("vip", [V4, V6])
def test_what_takes_requests_for_a_vip_is_what_the_kernel_gives_them_to(
    case: str, vip: str, transport: str, table: SocketTable, vips: None
) -> None:
    """Our reading of a socket against a request that is really sent."""
    six = ":" in vip
    with bound(transport, **CASES[case][0]) as server:
        (read,) = table.read([transport], {PORT}, ipv4=True)
        kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind) as client:
            client.settimeout(DEADLINE)
            try:
                client.connect((vip, PORT))
                client.send(b"hello")
                if transport == "tcp":
                    server.accept()[0].close()
                else:
                    (hearing, *_), _, _ = select.select([server, client], [], [], DEADLINE)
                    assert hearing.recv(10) == b"hello"  # the client hears the refusal
                reached = True
            except ConnectionRefusedError:
                reached = False
    assert read.takes(ip_address(vip)) is reached


def test_sockets_that_take_from_nobody_new_are_left_out(table: SocketTable, vips: None) -> None:
    """Connected ones, of either transport, and TCP sockets that do not listen."""
    with bound("udp", V4) as udp, bound("tcp", V4, PORT + 1) as listening, socket.socket() as idle:
        udp.connect((V4, 9))
        idle.bind((V4, PORT))
        with socket.create_connection((V4, PORT + 1)):
            assert table.read(["tcp", "udp"], {PORT}, ipv4=True) == []
            assert table.read(["tcp"], range(65536), ipv4=True) == [Socket("tcp", PORT + 1, ip_address(V4))]
        assert listening


def test_thousands_of_sockets_are_one_dump(table: SocketTable) -> None:
    """More than one datagram of answers."""
    with contextlib.ExitStack() as stack:
        for port in range(20000, 20600):
            stack.enter_context(bound("udp", "127.0.0.1", port))
        assert len(table.read(["udp"], range(20000, 21000), ipv4=True)) == 600


class TestAgent:
    def test_nobody_somebody_and_somebody_elsewhere(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent, contextlib.ExitStack() as sockets:
            agent.serving()
            for path in ("/readyz", f"/readyz/{V4}"):
                answer = get(path)
                assert answer.status == 503
                assert f"{V4}/32 on lo: udp/{PORT}: nobody listens" in answer.body
                assert f"tcp/{PORT}: nobody listens" in answer.body
            assert get("/readyz/192.0.2.11").status == 200
            assert f"VIP {V4}: udp/{PORT}: nobody listens" in agent.log()
            page = get("/metrics")
            assert page.sample(f'dsr_vip_ready{{vip="{V4}"}}') == 0
            assert page.sample('dsr_vip_ready{vip="192.0.2.11"}') == 1
            assert page.sample(f'dsr_service_listening{{service="udp/{PORT}",vip="{V4}"}}') == 0

            sockets.enter_context(bound("tcp", "0.0.0.0"))
            udp = sockets.enter_context(bound("udp", "127.0.0.1"))
            agent.until(lambda: "elsewhere" not in get("/readyz").body and "127.0.0.1" in get("/readyz").body, "seen")
            assert f"bound to 127.0.0.1:{PORT} only, where the VIP's requests never come" in get("/readyz").body
            udp.close()
            sockets.enter_context(bound("udp", V4))
            agent.until(lambda: get(f"/readyz/{V4}").status == 200, "ready")
            assert get("/readyz").status == 200
            agent.until(lambda: f"udp/{PORT}: up again, bound to the VIP" in agent.log(), "the log")
            assert get("/metrics").sample(f'dsr_service_listening{{service="udp/{PORT}",vip="{V4}"}}') == 1

            sockets.close()
            agent.until(lambda: get(f"/readyz/{V4}").status == 503, "unready")
            assert get("/readyz/192.0.2.11").status == 200

    def test_a_udp_wildcard_is_warned_about_and_ready(self, tmp_path: Path) -> None:
        with bound("udp", "::", only6=False), bound("tcp", "0.0.0.0"), Agent(tmp_path, VIPS) as agent:
            agent.serving()
            assert get("/readyz").status == 200
            doubt = f"udp/{PORT}: bound to every address ([::]:{PORT}), so it may answer from another one than the VIP"
            assert f"VIP {V4}: {doubt}" in agent.log()
            said = agent.call("status")
            assert doubt in said.stdout
            assert f"tcp/{PORT}: bound to every address (0.0.0.0:{PORT})\n" in said.stdout
            assert said.returncode == 0

    def test_a_restart_says_nothing_else_than_before(self, tmp_path: Path) -> None:
        """From the first answer on."""
        sh(f"ip addr add {V4}/32 dev lo")
        with bound("udp", V4), bound("tcp", V4):
            for _ in range(3):
                (tmp_path / "notify").unlink(missing_ok=True)
                with Agent(tmp_path, VIPS) as agent:
                    agent.serving()
                    assert get("/readyz").status == 200
        assert "nobody" not in agent.log()

    def test_a_new_service_is_looked_at_with_the_new_file(self, tmp_path: Path) -> None:
        """And one that the file has no more says nothing."""
        long = "[listeners]\ninterval = 60\n"
        with Agent(tmp_path, long + VIPS.replace(f'services = ["udp/{PORT}", "tcp/{PORT}"]\n', "")) as agent:
            agent.serving()
            assert get("/readyz").status == 200
            agent.reload(long + VIPS)
            agent.until(lambda: get("/readyz").status == 503, "unready")
            agent.reload(long)
            agent.until(lambda: get("/readyz").status == 200, "ready")

    def test_status_works_without_an_agent(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            pass
        with bound("udp", "127.0.0.1"), bound("tcp", V4):
            said = agent.call("status").stdout
        assert f"  udp/{PORT}: bound to 127.0.0.1:{PORT} only, where the VIP's requests never come" in said
        assert f"  tcp/{PORT}: bound to the VIP\n" in said
