"""The machine itself can carry the tests: modules, namespaces, real IPVS, both encapsulations, TCP and UDP."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import drift

VIP = "192.0.2.10"
PORT = 7000
CLIENT = "10.0.1.2"

# Answers with the address it sees the request come from; UDP from the VIP, because that is what it is bound to.
ECHO = f"""
import socket, threading
tcp = socket.create_server(("{VIP}", {PORT}))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("{VIP}", {PORT}))
print("ready", flush=True)
def datagrams():
    while True:
        _, peer = udp.recvfrom(2048)
        udp.sendto(peer[0].encode(), peer)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    connection, peer = tcp.accept()
    connection.sendall(peer[0].encode())
    connection.close()
"""

ASK = f"""
import socket, sys
if sys.argv[1] == "tcp":
    link = socket.create_connection(("{VIP}", {PORT}), timeout=60)
else:
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.settimeout(60)
    link.connect(("{VIP}", {PORT}))
    link.send(b"hello")
print(link.recv(100).decode())
"""


def run(command: str) -> str:
    """Run a command and give back what it printed; its complaint is the test's failure."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def link(one: str, one_address: str, other: str, other_address: str) -> None:
    """Join two namespaces; each end is named after the other."""
    run(f"ip -n {one} link add to-{other} type veth peer name to-{one} netns {other}")
    for space, peer, address in ((one, other, one_address), (other, one, other_address)):
        run(f"ip -n {space} address add {address}/24 dev to-{peer}")
        run(f"ip -n {space} link set to-{peer} up")


@pytest.fixture
def spaces() -> Iterator[None]:
    """Client, balancer and real server; the real server answers the client over a link of their own."""
    names = ("client", "lb", "rs")
    for name in names:
        run(f"ip netns add {name}")
        run(f"ip -n {name} link set lo up")
    try:
        link("client", CLIENT, "lb", "10.0.1.1")
        link("lb", "10.0.2.1", "rs", "10.0.2.2")
        link("rs", "10.0.3.2", "client", "10.0.3.1")
        run(f"ip -n client route add {VIP} via 10.0.1.1")
        run("ip -n rs route add 10.0.1.0/24 via 10.0.3.1")
        run(f"ip -n lb address add {VIP}/32 dev lo")
        run("ip netns exec lb sysctl -q -w net.ipv4.ip_forward=1")
        run(f"ip -n rs address add {VIP}/32 dev lo")
        yield
    finally:
        for name in names:
            run(f"ip netns delete {name}")


@pytest.fixture
def echo(spaces: None) -> Iterator[None]:
    """The application on the real server."""
    process = subprocess.Popen(["ip", "netns", "exec", "rs", "python3", "-c", ECHO], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("module", ["ipip", "ip_gre", "ip_vs", "sit", "fou", "ip6_tunnel", "dummy", "veth"])
def test_module(module: str) -> None:
    run(f"modprobe {module}")


@pytest.mark.parametrize(("kind", "balancer"), [("ipip", "-i"), ("gre", "-i --tun-type gre")])
@pytest.mark.usefixtures("echo")
def test_traffic_through_ipvs(kind: str, balancer: str) -> None:
    run(f"ip -n rs link add dsr0 type {kind} local 10.0.2.2")
    run("ip -n rs link set dsr0 up")
    for protocol in ("-t", "-u"):
        run(f"ip netns exec lb ipvsadm -A {protocol} {VIP}:{PORT} -s rr")
        run(f"ip netns exec lb ipvsadm -a {protocol} {VIP}:{PORT} -r 10.0.2.2:{PORT} {balancer}")
    for protocol in ("tcp", "udp"):
        command = ["ip", "netns", "exec", "client", "python3", "-c", ASK, protocol]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == CLIENT
    counted = run("ip netns exec rs cat /sys/class/net/dsr0/statistics/rx_packets")
    assert int(counted) >= 2, "the requests did not come through the tunnel"


def test_nothing_outside_can_be_reached() -> None:
    devices = set(os.listdir("/sys/class/net")) - {"lo"}
    physical = {name for name in devices if Path("/sys/class/net", name, "device").exists()}
    assert not physical
    assert "default" not in run("ip route show table all")


def test_the_modules_of_a_host_stay_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(drift, "run", lambda *words: done.append(words))
    monkeypatch.setattr(drift, "inside", contextlib.nullcontext)
    monkeypatch.setenv("DSR_LAB", "here")
    with pytest.raises(pytest.skip.Exception, match="the host's own"):
        drift.shell("modprobe -r ipip")()
    assert done == []
    monkeypatch.setenv("DSR_LAB", "uml")
    drift.shell("modprobe -r ipip")()
    assert done == [("modprobe", "-r", "ipip")]


@pytest.mark.reference
def test_debian_as_shipped() -> None:
    assert Path("/run/systemd/system").is_dir()
    assert run("systemctl is-active systemd-udevd") == "active\n"
    run("nft add table inet probe")
    run("nft delete table inet probe")
    assert "deb13" in os.uname().release
