"""Clients that misbehave keep nobody from the truth, and no VIP from coming back."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.process import DEADLINE, PORT, Agent, Watcher, addresses, get, vips

MISBEHAVING = 200


@contextmanager
def rowdies(seconds: float) -> Iterator[None]:
    """`MISBEHAVING` clients, in a process of their own."""
    argv = [sys.executable, "-m", "tests.netns.hostile_clients", str(PORT), str(MISBEHAVING), str(seconds)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"here\n"
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("count", [10, 2000])
def test_a_vip_comes_back_and_a_scrape_is_answered_among_two_hundred_that_misbehave(tmp_path: Path, count: int) -> None:
    with Agent(tmp_path, vips(count)) as agent, Watcher() as watcher:
        agent.serving()
        with rowdies(40):
            for address in list(addresses(count))[:10]:
                watcher.repair(address)  # never is an error in there
                answer = get("/metrics")
                assert answer.status == 200
                assert answer.sample("dsr_vips_declared") == count
            assert agent.unix("/readyz").status == 200
            done = 'dsr_repairs_total{object="vip",result="done"}'
            agent.until(lambda: agent.unix("/metrics").sample(done) == 10, "ten repairs in the metrics")
        assert agent.log().count("\n") < 25, "those who talk nonsense fill no journal"


def test_who_never_ends_is_cut_off(tmp_path: Path) -> None:
    with Agent(tmp_path, vips(1)) as agent:
        agent.serving()
        silent = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(3)]
        silent[1].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        silent[2].sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
        for connection in silent:
            connection.settimeout(DEADLINE)
            with connection:
                while connection.recv(1000):  # to the end of what it says; forever would be the failure
                    pass
        assert get("/metrics").sample('dsr_http_connections_cut_total{reason="slow"}') == 3


def test_a_crowd_from_one_address_does_not_shut_out_another(tmp_path: Path) -> None:
    with Agent(tmp_path, f'[http]\nlisten = ["0.0.0.0:{PORT}"]\n' + vips(1)) as agent:
        agent.serving()
        other = socket.create_connection(("127.0.0.1", PORT), source_address=("127.0.0.2", 0))
        many = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(300)]
        answer = get("/metrics")
        assert answer.sample('dsr_http_connections_cut_total{reason="crowd"}') > 30
        other.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        other.settimeout(DEADLINE)
        assert other.recv(100).startswith(b"HTTP/1.1 200")
        for connection in (other, *many):
            connection.close()


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    with Agent(tmp_path, vips(1)) as agent:
        agent.serving()
        for sent in (
            b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            b"\0\0\0\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", PORT)) as connection:
                connection.settimeout(DEADLINE)
                try:
                    connection.sendall(sent)
                    said = connection.recv(100)
                except ConnectionError:
                    said = b""
                assert not said.startswith(b"HTTP/1.1 2")
        assert get("/readyz").status == 200
