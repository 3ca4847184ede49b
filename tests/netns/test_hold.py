"""Held and released, as an operator does it: by the verbs, over the unix socket, with ip, and through restarts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.netns.agent import dsr_agent
from tests.netns.process import DEADLINE, Agent, get
from tests.netns.space import sh
from tests.netns.test_drain import ONE, TWO, VIPS, post, serving

DELETE = f"ip addr del {ONE}/32 dev lo"


def there(address: str) -> bool:
    """Whether a VIP is on lo."""
    return f" {address}/32 " in sh("ip -o addr show dev lo")


def undo(agent: Agent, address: str = TWO) -> None:
    """Have another VIP put back: a repair that comes after whatever was announced before has been seen."""
    done = 'dsr_repairs_total{object="vip",result="done"}'
    before = agent.unix("/metrics").sample(done)
    sh(f"ip addr del {address}/32 dev lo")
    agent.until(lambda: there(address) and agent.unix("/metrics").sample(done) > before, f"VIP {address}")


def test_what_is_held_can_be_taken_away_and_the_rest_is_kept(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        done = agent.call("hold", "radius")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"VIP {ONE} is held until somebody releases\n", "")
        sh(DELETE)  # at once: whoever was answered is not overtaken
        undo(agent)
        assert not there(ONE)
        assert get(f"/readyz/{ONE}").body == "held\n"
        assert [get(path).status for path in (f"/readyz/{TWO}", "/readyz")] == [200, 200]
        page = agent.unix("/metrics")  # rendered anew
        assert page.sample(f'dsr_vip_held{{vip="{ONE}"}}') == 1
        assert f'dsr_vip_held{{vip="{TWO}"}}' not in page.body
        assert page.sample("dsr_in_sync") == 1
        assert page.sample('dsr_drift_total{object="vip"}') == 1, "the other one"
        assert f"held until somebody releases: VIP {ONE}" in agent.log()
        status = agent.call("status")
        assert status.returncode == 0
        assert f"VIP {ONE} is held until somebody releases\n" in status.stdout
        assert f"VIP {ONE} on lo: missing; it is held\n" in status.stdout
        agent.hear("STATUS=in sync: 0 tunnels, 2 VIPs, 1 of them held")

        done = agent.call("release", ONE)
        assert (done.returncode, done.stdout) == (0, "nothing is held\n")
        assert there(ONE), "it is back before the verb returns"
        assert f"no longer held: VIP {ONE}" in agent.log()
        assert get(f"/readyz/{ONE}").status == 200


def test_plan_and_apply_leave_alone_what_the_agent_holds_and_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Agent(tmp_path, VIPS, STATE_DIRECTORY="/proc/none") as agent:
        serving(agent)
        done = agent.call("hold", ONE)
        assert done.returncode == 1
        assert "a restart of the agent ends this: /proc/none/holds.json: " in done.stderr
        sh(DELETE)
        for verb, words in (("plan", "in sync: nothing to do\n"), ("apply", "nothing to do\nin sync\n")):
            done = agent.call(verb)
            assert (done.returncode, done.stdout) == (0, f"{words}VIP {ONE} is held until somebody releases\n")
        assert not there(ONE)
    (tmp_path / "holds.json").write_text(json.dumps(_kept(ONE)))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    done_here = dsr_agent("apply", config=tmp_path / "dsr-agent.toml")
    assert done_here.code == 0
    assert not there(ONE)
    (tmp_path / "holds.json").write_text("{")
    done_here = dsr_agent("apply", config=tmp_path / "dsr-agent.toml")
    assert "holds.json cannot be read, so nothing counts as held: " in done_here.err
    assert there(ONE)


def test_it_survives_whatever_happens_to_the_agent(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        agent.call("hold", ONE, "--for", "1h")
        until = json.loads(agent.call("status", "--json").stdout)["agent"]["held"]["vips"][0]["until"]
        sh(DELETE)
        for end in (signal.SIGTERM, signal.SIGKILL):
            os.kill(agent.pid, end)
            assert agent.process
            agent.process.wait(DEADLINE)
            agent.start()
            agent.hear("READY=1")
            assert not there(ONE), "not even for a moment: the first pass goes by it"
            serving(agent)
            assert get(f"/readyz/{ONE}").body == "held\n"
        agent.reload(VIPS + '[[vip]]\naddress = "192.0.2.12"\n')
        assert [there(ONE), there("192.0.2.12")] == [False, True]
        status = json.loads(agent.call("status", "--json").stdout)
        assert status["agent"]["held"]["vips"][0]["until"] == until
        assert status["agent"]["not_ready"] == {ONE: ["held"]}
        assert f"still held: VIP {ONE}" in agent.log()


def test_it_ends_by_itself_and_the_vip_is_back(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        assert " is held until 2" in agent.call("hold", ONE, "--for", "1h").stdout
        agent.call("hold", ONE, "--for", "2s")  # which may be over before the verb returns
        sh(DELETE)
        undo(agent)
        agent.until(lambda: there(ONE), "the VIP")
        agent.until(lambda: f"no longer held, its time is over: VIP {ONE}" in agent.log(), "the log")
        agent.until(lambda: ONE not in (tmp_path / "holds.json").read_text(), "the file")


def test_a_hold_that_ended_while_the_agent_was_away_is_over(tmp_path: Path) -> None:
    (tmp_path / "holds.json").write_text(json.dumps(_kept(ONE, until=1.0)))
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        assert there(ONE)
        assert "still held" not in agent.log()


def test_what_is_held_and_leaves_the_file_is_removed_and_can_be_released(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        agent.call("hold", ONE, TWO)
        agent.reload(VIPS.replace(ONE, "192.0.2.12"))
        assert [there(ONE), there(TWO)] == [False, True]
        assert f"VIP {ONE} is held until somebody releases; it is not in the file\n" in agent.call("status").stdout
        assert agent.call("release", ONE).stdout == f"VIP {TWO} is held until somebody releases\n"
        assert agent.call("release").stdout == "nothing is held\n"


def test_teardown_takes_what_is_held_too_and_leaves_the_hold(tmp_path: Path) -> None:
    with Agent(tmp_path, VIPS) as agent:
        serving(agent)
        agent.call("hold", ONE)
        os.kill(agent.pid, signal.SIGTERM)
        assert agent.process
        agent.process.wait(DEADLINE)
        assert there(ONE)
        assert agent.call("teardown").returncode == 0
        assert [there(ONE), there(TWO)] == [False, False]
        agent.start()
        agent.hear("READY=1")
        assert [there(ONE), there(TWO)] == [False, True]


class TestDoors:
    def test_the_network_holds_nothing(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            for path in ("/hold", "/release"):
                assert post(agent, path, {"pid": agent.pid, "vips": [ONE]}, "127.0.0.1") == 405
            assert get(f"/readyz/{ONE}").status == 200

    def test_holding_nothing_in_particular_is_refused(self, tmp_path: Path) -> None:
        """All VIPs of a host are not taken in hand by an omission."""
        with Agent(tmp_path, VIPS) as agent:
            serving(agent)
            assert post(agent, "/hold", {"pid": agent.pid, "vips": []}) == 400
            assert agent.call("hold").returncode == 2
            assert post(agent, "/release", {"pid": agent.pid, "vips": []}) == 200

    @pytest.mark.parametrize("verb", ["hold", "release"])
    def test_without_an_agent_it_says_so(self, verb: str, tmp_path: Path) -> None:
        file = tmp_path / "dsr-agent.toml"
        file.write_text(VIPS)
        done = dsr_agent(verb, ONE, config=file)
        assert (done.code, done.err) == (1, f"dsr-agent: no dsr-agent runs here, so there is nobody to {verb}\n")


def _kept(address: str, until: float | None = None) -> object:
    return {"version": 1, "host": None, "vips": {address: {"since": 0.0, "until": until}}}
