"""Drained and undrained, as an operator does it: by the verbs, over the unix socket, through restarts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.netns.agent import dsr_agent
from tests.netns.process import DEADLINE, Agent, _Unix, ask, get
from tests.netns.space import sh

ONE, TWO = "192.0.2.10", "192.0.2.11"
VIPS = f'[[vip]]\naddress = "{ONE}"\nname = "radius"\n[[vip]]\naddress = "{TWO}"\n'


def ready(address: str = "") -> bool:
    """What the balancer is told."""
    return get(f"/readyz/{address}" if address else "/readyz").status == 200


def serving(agent: Agent) -> None:
    """Wait for both doors."""
    agent.serving()
    agent.until(lambda: agent.unix("/livez").status == 200, "the socket")


def post(agent: Agent, path: str, body: Any, host: str = "") -> int:
    """The status that a POST gets."""
    import http.client

    connection = (
        http.client.HTTPConnection(host, 9177, timeout=DEADLINE) if host else _Unix(str(agent.folder / "http.sock"))
    )
    connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
    with contextlib.closing(connection):
        return connection.getresponse().status


def test_one_vip_is_drained_and_the_rest_goes_on(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        before = sh("ip -o addr show dev lo")
        done = agent.call("drain", "radius")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"VIP {ONE} is drained until somebody undrains\n"
        assert get(f"/readyz/{ONE}").body == "drained\n"
        assert [ready(ONE), ready(TWO), ready()] == [False, True, True]
        assert sh("ip -o addr show dev lo") == before
        page = get("/metrics")
        assert page.sample(f'dsr_vip_drained{{vip="{ONE}"}}') == 1
        assert f'dsr_vip_drained{{vip="{TWO}"}}' not in page.body, "it says something about those that are"
        assert page.sample(f'dsr_vip_ready{{vip="{ONE}"}}') == 0
        assert f"drained until somebody undrains: VIP {ONE}" in agent.log()
        assert f"VIP {ONE} is drained until somebody undrains" in agent.call("status").stdout
        assert agent.call("undrain", ONE).stdout == "nothing is drained\n"
        assert ready(ONE)
        assert f"no longer drained: VIP {ONE}" in agent.log()


def test_all_is_drained_when_none_is_named(tmp_path: Path) -> None:
    """Also what comes with another file; undraining one leaves the others."""
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        assert agent.call("drain").stdout.startswith("all VIPs are drained until somebody undrains\n")
        assert get("/readyz").body == "drained\n"
        agent.reload(VIPS + '[[vip]]\naddress = "192.0.2.12"\n')
        assert not ready("192.0.2.12")
        agent.call("undrain", ONE)
        assert [ready(ONE), ready(TWO), ready("192.0.2.12"), ready()] == [True, False, False, True]
        agent.call("drain", ONE)
        assert not ready(), "each of them is drained, and so the host"
        agent.call("undrain")
        assert ready()


def test_it_survives_whatever_happens_to_the_agent(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        agent.call("drain", ONE, "--for", "1h")
        until = json.loads(agent.call("status", "--json").stdout)["agent"]["drained"]["vips"][0]["until"]
        for end in (signal.SIGTERM, signal.SIGKILL):
            os.kill(agent.pid, end)
            assert agent.process
            agent.process.wait(DEADLINE)
            agent.start()
            agent.hear("READY=1")
            serving(agent)
            assert [ready(ONE), ready(TWO)] == [False, True]
        status = json.loads(agent.call("status", "--json").stdout)
        assert status["agent"]["drained"]["vips"][0]["until"] == until
        assert status["agent"]["not_ready"] == {ONE: ["drained"]}
        assert f"still drained: VIP {ONE}" in agent.log()


def test_it_ends_by_itself(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        assert " is drained until 2" in agent.call("drain", ONE, "--for", "1h").stdout
        agent.call("drain", ONE, "--for", "1s")  # which may be over before the verb returns
        agent.until(lambda: f"no longer drained, its time is over: VIP {ONE}" in agent.log(), "the log")
        assert ready(ONE)
        agent.until(lambda: ONE not in (tmp_path / "drains.json").read_text(), "the file")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', "\0" * 100, '{"version": 1, "host": 3, "vips": {}}'])
def test_a_damaged_file_is_told_and_left_aside(text: str, tmp_path: Path) -> None:
    (tmp_path / "drains.json").write_text(text)
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        assert ready()
        assert f"{tmp_path}/drains.json cannot be read, so nothing is drained: " in agent.log()
        assert agent.call("drain", ONE).returncode == 0
        assert ONE in (tmp_path / "drains.json").read_text()


def test_what_cannot_be_kept_is_drained_all_the_same_and_said(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS, STATE_DIRECTORY="/proc/none") as agent:
        serving(agent)
        done = agent.call("drain", ONE)
        assert done.returncode == 1
        assert "a restart of the agent ends this: /proc/none/drains.json: " in done.stderr
        assert not ready(ONE)


class TestDoors:
    def test_the_network_changes_nothing(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            asked = {"pid": agent.pid, "vips": []}
            for path in ("/drain", "/undrain"):
                assert post(agent, path, asked, "127.0.0.1") == 405
            assert ready()
            assert ask(_Unix(str(tmp_path / "http.sock")), "/drain").status == 404
            assert post(agent, "/status", asked) == 405
            assert post(agent, "/drain", asked) == 200
            assert not ready()

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"[" * 100_000, 400),
            (b"\xff", 400),
            ({"vips": []}, 409),
            ({"pid": 1, "vips": []}, 409),
            ({"pid": 0, "vips": "192.0.2.10"}, 400),
            ({"pid": 0, "vips": [1]}, 400),
            ({"pid": 0}, 400),
            ({"pid": 0, "vips": ["192.0.2.99"]}, 404),
            ({"pid": 0, "vips": [], "seconds": "10"}, 400),
            ({"pid": 0, "vips": [], "seconds": -1}, 400),
            ({"pid": 0, "vips": [], "seconds": True}, 400),
            (b'{"pid": 0, "vips": [], "seconds": NaN}', 400),
            ({"pid": 0, "vips": [], "seconds": 1e300}, 400),
        ],
        ids=str,
    )
    def test_nonsense_is_refused(self, body: Any, status: int, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            if isinstance(body, dict) and body.get("pid") == 0:
                body = {**body, "pid": agent.pid}
            elif isinstance(body, bytes):
                body = body.replace(b'"pid": 0', f'"pid": {agent.pid}'.encode())
            assert post(agent, "/drain", body) == status
            assert ready()

    def test_ten_thousand_vips_can_be_named(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            assert post(agent, "/drain", {"pid": agent.pid, "vips": [ONE] * 20_000}) == 200

    def test_only_root_and_the_agents_user_may(self, tmp_path: Path) -> None:
        """Whoever may read the socket may not change anything for that."""
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            path = tmp_path / "http.sock"
            path.chmod(0o666)
            for folder in (tmp_path, *tmp_path.parents[:2]):
                folder.chmod(0o755)
            script = (
                "import os, socket, sys\n"
                "os.setgroups([]); s = socket.socket(socket.AF_UNIX)\n"
                "d = os.open(sys.argv[1], os.O_PATH); os.setresuid(65534, 65534, 65534)\n"
                "s.connect(f'/proc/self/fd/{d}')\n"
                'b = b\'{"pid": %d, "vips": []}\' % int(sys.argv[2])\n'
                "s.sendall(b'POST /drain HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(b) + b)\n"
                "print(s.recv(100).split()[1].decode())\n"
            )
            argv = ["python3", "-c", script, str(path), str(agent.pid)]
            assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "403\n"
            assert ready()


class TestVerb:
    def test_without_an_agent_it_says_so(self, tmp_path: Path) -> None:
        file = tmp_path / "dsr-agent.toml"
        file.write_text(VIPS)
        for verb in ("drain", "undrain"):
            done = dsr_agent(verb, config=file)
            assert (done.code, done.out) == (1, "")
            assert done.err == f"dsr-agent: no dsr-agent runs here, so there is nobody to {verb}\n"
            assert dsr_agent(verb, "--json", config=file).json["ok"] is False

    def test_without_the_socket_it_says_so(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS, RUNTIME_DIRECTORY="/proc") as agent:
            agent.serving()
            done = agent.call("drain")
            assert done.returncode == 1
            assert f"the agent (process {agent.pid}) cannot be asked over /proc/http.sock: No such file" in done.stderr

    def test_an_unknown_vip_is_refused_and_nothing_is_done(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            done = agent.call("drain", ONE, "192.0.2.99")
            assert done.returncode == 1
            assert "refuses: no VIP of that name or address: 192.0.2.99" in done.stderr
            assert ready(ONE)

    def test_a_file_that_cannot_be_used_does_not_stand_in_the_way(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            agent.file.write_text("x = 1\n")
            assert agent.call("drain", ONE).returncode == 0
            assert not ready(ONE)

    def test_what_left_the_file_can_be_undrained(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            agent.call("drain", ONE)
            agent.reload(VIPS.partition('[[vip]]\naddress = "192.0.2.11"')[0].replace(ONE, TWO))
            assert f"VIP {ONE} is drained until somebody undrains; it is not in the file" in agent.call("status").stdout
            assert agent.call("undrain", ONE).stdout == "nothing is drained\n"

    @pytest.mark.parametrize("span", ["", "10", "m", "0m", "10x", "-1m", "1m1h", "1.5h"])
    def test_a_time_that_is_none_is_refused(self, span: str) -> None:
        done = dsr_agent("drain", f"--for={span}")
        assert done.code == 2
        assert "write a time such as 10m, 1h30m or 90s" in done.err

    def test_a_time_that_is_too_long_is_refused(self) -> None:
        done = dsr_agent("drain", "--for=99999d")
        assert (done.code, "found '99999d': write a time such as 10m, at most 3660d" in done.err) == (2, True)
