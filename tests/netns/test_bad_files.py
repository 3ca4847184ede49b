"""Every bad file there is, at a reload: what runs goes on, and the log, the metric, HTTP and the command say so."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.netns.process import Agent, Watcher
from tests.netns.space import sh
from tests.unit.config.bad_files import configurations, values
from tests.unit.config.configs import MAIN

GOOD = '[[vip]]\naddress = "203.0.113.7"\n'  # in none of the bad files
RELOADED = "dsr_config_last_reload_successful"


def bad_files() -> list[tuple[dict[str, str], list[str]]]:
    """What is written, and what is said about it. A running process keeps its environment, so none of that."""
    found: list[tuple[dict[str, str], list[str]]] = []
    for case in values():
        path, template, value, said = case.values
        line = template[: template.index("{}")].count("\n") + 1
        found.append(({MAIN: template.replace("{}", value)}, [f"{MAIN}:{line}: {path}: {said}"]))
    found += [(files, said) for files, environ, said in (case.values for case in configurations()) if not environ]
    return found


def write(folder: Path, files: dict[str, str]) -> None:
    """These files and no others."""
    for old in [*folder.glob("dsr-agent.d/*"), *folder.glob("*.toml")]:
        old.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")


def reload(agent: Agent) -> str:
    """SIGHUP, and what the service manager hears at the end of it."""
    assert agent.process
    agent.process.send_signal(signal.SIGHUP)
    agent.hear("RELOADING=1")
    return agent.hear("READY=1")


def test_no_bad_file_changes_anything_and_all_of_them_are_told(tmp_path: Path) -> None:
    cases = bad_files()
    assert len(cases) > 200
    with Agent(tmp_path, GOOD) as agent, Watcher() as watcher:
        agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
        before = sh("ip -d address show dev lo"), sh("ip -d link")
        began = agent.unix("/metrics").sample("dsr_config_last_reload_success_timestamp_seconds")
        for files, said in cases:
            write(tmp_path, files)
            heard = reload(agent)
            assert "in sync: 0 tunnels, 1 VIP; the file cannot be used, going on as before: " in heard, files
            status = agent.unix("/status").json()
            told = [line.replace(f"{tmp_path}/", "") for line in status["agent"]["reload"]["refusals"]]
            assert told == said
            assert [vip["address"] for vip in status["vips"]] == ["203.0.113.7"]
            metrics = agent.unix("/metrics")
            assert (metrics.sample(RELOADED), metrics.sample("dsr_in_sync")) == (0, 1)
        assert (sh("ip -d address show dev lo"), sh("ip -d link")) == before
        watcher.repair("203.0.113.7")  # it still looks after what it had
        assert agent.log().count("the file cannot be used; going on as before") == len(cases)
        assert "Traceback" not in agent.log()
        write(tmp_path, {MAIN: GOOD})
        assert reload(agent).endswith("STATUS=in sync: 0 tunnels, 1 VIP")
        metrics = agent.unix("/metrics")
        assert metrics.sample(RELOADED) == 1
        assert metrics.sample("dsr_config_last_reload_success_timestamp_seconds") > began


def test_the_command_says_of_a_bad_file_what_the_agent_does_with_it(tmp_path: Path) -> None:
    with Agent(tmp_path, GOOD) as agent:
        agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
        agent.reload(GOOD + "x = 1\n")
        said = agent.call("status")
        assert said.returncode == 2
        assert said.stdout.startswith(f"the file cannot be used; the agent (process {agent.pid}) goes on with what it")
        assert said.stdout.endswith(": in sync\n")
        assert "unknown key" in said.stderr
        found = json.loads(agent.call("status", "--json").stdout)
        assert found["ok"] is False
        assert found["refusals"] == found["agent"]["reload"]["refusals"]
        assert found["agent"]["pid"] == agent.pid
    said = agent.call("status")
    assert (said.returncode, said.stdout) == (2, "the file cannot be used; the agent is not running\n")
