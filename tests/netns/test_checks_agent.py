"""What the agent makes of its checks: readiness, metrics, status and log."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.netns.applications import (
    OWN,
    PORT,
    SECRET,
    VIP,
    VIP2,
    addressed,
)
from tests.netns.process import Agent, get


@pytest.fixture(autouse=True)
def addresses(space: None) -> None:
    addressed()


SERVICES = f'services = ["udp/{PORT}"]\n'
VIPS = f'[[vip]]\naddress = "{VIP}"\n{SERVICES}[[vip]]\naddress = "{VIP2}"\n'
LISTENERS = "[listeners]\nfall = 100\n"
CHECK = f'[[check]]\nprotocol = "radius"\nsecret = "{SECRET}"\ninterval = 1\ntimeout = 0.5\nfall = 2\nrise = 2\n'


class TestAgent:
    def server(self, answer: str, address: str = VIP) -> subprocess.Popen[bytes]:
        """A RADIUS server as a process of its own: the agent's answers must not depend on the test's loop."""
        program = (
            "import asyncio\nfrom tests.netns import applications as t\n"
            f"async def main():\n async with t.radius({answer}, {address!r}): print('up', flush=True); "
            "await asyncio.Event().wait()\nasyncio.run(main())\n"
        )
        started = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert started.stdout
        assert started.stdout.readline() == b"up\n"
        return started

    @contextlib.contextmanager
    def serving(self, answer: str = "t.good", address: str = VIP) -> Any:
        """It, for a while."""
        server = self.server(answer, address)
        try:
            yield
        finally:
            server.kill()
            server.wait()
            assert server.stdout
            server.stdout.close()

    def test_a_vip_whose_application_answers_is_ready_and_one_that_hangs_is_not(self, tmp_path: Path) -> None:
        again = tmp_path / "again"
        again.mkdir()
        sample = f'dsr_check_up{{check="radius",vip="{VIP}"}}'
        patient = CHECK.replace("interval = 1\ntimeout = 0.5", "interval = 30\ntimeout = 30")
        with self.serving(), Agent(tmp_path, LISTENERS + VIPS + patient) as agent:
            agent.serving()
            agent.until(lambda: sample in get("/metrics").body, "asked")
            assert get("/metrics").sample(sample) == 1
            assert get("/readyz").status == 200
            assert f"VIP {VIP}: radius check: answers in " in agent.call("status").stdout
        with self.serving("lambda data: []"), Agent(again, LISTENERS + VIPS + CHECK) as agent:
            agent.until(lambda: get(f"/readyz/{VIP}").status == 503, "unready")
            body = get(f"/readyz/{VIP}").body
            assert f"{VIP}/32 on lo: radius check: no answer from {VIP}:{PORT} within 0.5 s, " in body
            assert f"does not know {OWN} as a client" in body
            assert get(f"/readyz/{VIP2}").status == 200
            assert get("/metrics").sample(sample) == 0
            failed = f'dsr_check_failures_total{{check="radius",reason="timeout",vip="{VIP}"}}'
            assert get("/metrics").sample(failed) >= 2
            (row,) = get("/status").json()["agent"]["checks"]
            assert (row["vip"], row["check"], row["up"]) == (VIP, "radius", False)
            for said in (agent.log(), get("/status").body, get("/metrics").body, agent.call("check", "--json").stdout):
                assert SECRET not in said
            assert f"VIP {VIP}: radius check: no answer from" in agent.log()

    def test_it_recovers_and_a_reload_keeps_what_is_known(self, tmp_path: Path) -> None:
        config = LISTENERS + VIPS + CHECK
        with Agent(tmp_path, config) as agent:
            agent.serving()
            with self.serving("t.good", "0.0.0.0"):
                wrong = f"answers from {OWN} instead of the VIP"
                agent.until(lambda: wrong in get(f"/readyz/{VIP}").body, "seen")
                agent.reload(config.replace("timeout = 0.5", "timeout = 0.6"))
                agent.reload(config + '[[vip]]\naddress = "192.0.2.12"\n')
                assert "radius check: " in get(f"/readyz/{VIP}").body  # whatever the last answer was
            with self.serving():
                agent.until(lambda: get(f"/readyz/{VIP}").status == 200, "ready")
                agent.until(lambda: f"VIP {VIP}: radius check: answers again" in agent.log(), "the log")
                agent.reload(LISTENERS + VIPS)
                agent.until(lambda: "dsr_check_up{" not in get("/metrics").body, "gone")
            assert get(f"/readyz/{VIP}").status == 200
