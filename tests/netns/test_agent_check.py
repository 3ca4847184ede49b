"""HAProxy's agent check, as a load balancer's monitor uses it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.process import DEADLINE, Agent, get
from tests.netns.space import sh
from tests.netns.test_drain import ONE, TWO, VIPS, serving

PORT = 8190
CONFIG = f'[agent_check]\nlisten = ["127.0.0.1:{PORT}"]\n'


def connection(host: str = "127.0.0.1", port: int = PORT) -> socket.socket:
    """A monitor's."""
    return socket.create_connection((host, port), DEADLINE)


def rest(monitor: socket.socket) -> str:
    """All that comes until the end."""
    return b"".join(iter(lambda: monitor.recv(4096), b"")).decode()


@contextlib.contextmanager
def paused(agent: Agent) -> Iterator[None]:
    """It stands still, and finds all that was sent meanwhile: the moment that it waits for a question is short."""
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent.pid, signal.SIGCONT)


def told(agent: Agent, question: bytes = b"", host: str = "127.0.0.1", port: int = PORT) -> str:
    """The answer to a monitor that sends this."""
    with contextlib.ExitStack() as stack:
        with paused(agent):
            monitor = stack.enter_context(connection(host, port))
            monitor.sendall(question)
        return rest(monitor)


@contextlib.contextmanager
def running(folder: Path, config: str = CONFIG + VIPS) -> Iterator[Agent]:
    """An agent that answers."""
    with Agent(folder, config) as agent:
        agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
        agent.until(lambda: told(agent), "agent checks")
        yield agent


def test_what_is_answered(tmp_path: Path) -> None:
    named = '[[vip]]\naddress = "192.0.2.12"\nname = "zürich"\n'
    with running(tmp_path, CONFIG + VIPS + named) as agent:
        for question in (ONE, f"{ONE}\n", f"{ONE}\r\n", "radius\n", "", "\n", "\r\n"):
            assert told(agent, question.encode()) == "up ready\n", question
        assert told(agent, "zürich\n".encode()) == "up ready\n"
        assert told(agent, b"192.0.2.99\n") == "down #no VIP of that name or address: 192.0.2.99\n"
        agent.call("drain", ONE)
        answers = {vip: told(agent, f"{vip}\n".encode()) for vip in (ONE, TWO, "")}
        assert answers == {ONE: "up drain\n", TWO: "up ready\n", "": "up ready\n"}
        agent.call("hold", ONE)
        assert told(agent, f"{ONE}\n".encode()) == "down drain #held\n"
        agent.call("undrain")
        assert told(agent, f"{ONE}\n".encode()) == "down #held\n"
        agent.call("release")
        assert told(agent, f"{ONE}\n".encode()) == "up ready\n"
        page = agent.unix("/metrics")
        assert page.sample(f'dsr_agent_check_listening{{listen="127.0.0.1:{PORT}"}}') == 1
        assert page.sample('dsr_agent_check_answers_total{state="down"}') == 3


def test_whoever_has_said_all_and_shut_that_way_is_answered(tmp_path: Path) -> None:
    with running(tmp_path) as agent, contextlib.ExitStack() as stack:
        with paused(agent):
            monitor = stack.enter_context(connection())
            monitor.sendall(f"{ONE}\n".encode())
            monitor.shutdown(socket.SHUT_WR)
        assert rest(monitor) == "up ready\n"


@pytest.mark.parametrize("question", [b"\0" * 5000, b"x" * 100_000, b"\xff\xfe\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_nonsense_is_answered_or_cut_off_and_the_next_is_served(question: bytes, tmp_path: Path) -> None:
    with running(tmp_path) as agent:
        with contextlib.suppress(ConnectionError):
            answer = told(agent, question)
            assert not answer or answer.startswith("down #no VIP of that name or address:")
            assert len(answer) < 256
            assert answer.isascii()
        assert told(agent) == "up ready\n"
        assert "Traceback" not in agent.log()


def test_a_crowd_that_says_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    """Nor from HTTP, which has places of its own."""
    with running(tmp_path) as agent, contextlib.ExitStack() as crowd:
        silent = [crowd.enter_context(connection()) for _ in range(400)]
        assert told(agent, f"{ONE}\n".encode()) == "up ready\n"
        assert agent.unix("/livez").status == 200
        assert get("/readyz").status == 200
        for each in silent[-100:]:
            assert rest(each) == "up ready\n"


def test_it_is_served_where_the_file_says_now_and_without_http(tmp_path: Path) -> None:
    with running(tmp_path, f"[http]\nlisten = []\n{CONFIG}{VIPS}") as agent:
        assert told(agent) == "up ready\n"
        later = f'[agent_check]\nlisten = ["10.9.9.9:{PORT}", "[::1]:{PORT + 1}"]\n'
        agent.reload(f"[http]\nlisten = []\n{later}{VIPS}")
        agent.until(lambda: told(agent, host="::1", port=PORT + 1) == "up ready\n", "the other address")
        with pytest.raises(ConnectionRefusedError):
            told(agent)
        sh("ip addr add 10.9.9.9/32 dev lo")
        assert told(agent, host="10.9.9.9") == "up ready\n"
        agent.reload(VIPS)
        serving(agent)
        agent.until(lambda: "dsr_agent_check_listening{" not in agent.unix("/metrics").body, "nowhere")


def test_a_port_that_is_taken_is_told_and_had_when_it_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", PORT))
        taken.listen()
        with Agent(tmp_path, CONFIG + VIPS) as agent:
            serving(agent)
            what = f"agent checks on 127.0.0.1:{PORT}"
            agent.until(lambda: f"cannot serve {what}, trying again: somebody else listens there" in agent.log(), "log")
            assert agent.unix("/metrics").sample(f'dsr_agent_check_listening{{listen="127.0.0.1:{PORT}"}}') == 0
            taken.close()
            agent.until(lambda: f"serving {what} again" in agent.log(), "the log")
            assert told(agent) == "up ready\n"
