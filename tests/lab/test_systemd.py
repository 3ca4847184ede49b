"""The program under a real systemd: readiness, status, reload, watchdog, and a journal that can be asked by VIP."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsr_agent.service.journal import Kind
from tests.lab.agent import vip, wait_for
from tests.lab.spaces import run

UNIT = "dsr-agent-lab"
VIP = "192.0.2.77"
pytestmark = pytest.mark.reference


def show(what: str) -> str:
    """A property of the unit."""
    return run("systemctl", "show", "-P", what, UNIT).strip()


def journal(*matches: str) -> list[dict[str, str]]:
    """What the journal has of the unit since it was last started."""
    run("journalctl", "--sync")
    mine = f"_SYSTEMD_INVOCATION_ID={show('InvocationID')}"
    lines = run("journalctl", "-o", "json", "--no-pager", mine, *matches).splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The agent as a transient service that has said READY=1; its file."""
    file = tmp_path_factory.mktemp("service") / "dsr-agent.toml"
    file.write_text(vip(VIP))
    settings = ["Type=notify", "WatchdogSec=20", "Restart=always", "RuntimeDirectory=dsr-agent", "TimeoutStartSec=120"]
    options = [word for setting in settings for word in ("-p", setting)]
    environment = [f"--setenv=PYTHONPATH={os.environ.get('PYTHONPATH', os.getcwd())}"]
    command = [sys.executable, "-m", "dsr_agent", "run", "--config", str(file)]
    run("systemd-run", f"--unit={UNIT}", *options, *environment, *command)  # comes back when it is ready
    yield file
    run("systemctl", "stop", UNIT)
    run(sys.executable, "-m", "dsr_agent", "teardown")


def test_ready_means_that_the_vip_is_there_and_status_says_so(service: Path) -> None:
    assert f"{VIP}/32" in run("ip", "-o", "address", "show", "dev", "lo")
    assert show("ActiveState") == "active"
    assert show("StatusText") == "in sync: 0 tunnels, 1 VIP"


def test_the_journal_can_be_asked_for_a_vip(service: Path) -> None:
    run("ip", "address", "del", f"{VIP}/32", "dev", "lo")
    wait_for(lambda: bool(journal(f"MESSAGE_ID={Kind.REPAIRED}")), "the repair in the journal")
    [entry] = [entry for entry in journal(f"VIP={VIP}") if entry["MESSAGE_ID"] == Kind.REPAIRED]
    assert entry["ACTION"] == "AddAddress"
    assert entry["PRIORITY"] == "4"
    assert entry["MESSAGE"].startswith(f"VIP {VIP}/32 on lo: it is missing; put back in ")


def test_a_reload_with_a_bad_file_is_in_the_status(service: Path) -> None:
    good = service.read_text()
    service.write_text(good + "x = 1\n")
    run("systemctl", "kill", "-s", "HUP", UNIT)
    wait_for(lambda: "the file cannot be used, going on as before" in show("StatusText"), "the status")
    assert show("ActiveState") == "active"
    service.write_text(good)
    run("systemctl", "kill", "-s", "HUP", UNIT)
    wait_for(lambda: show("StatusText") == "in sync: 0 tunnels, 1 VIP", "the status")


def test_who_does_not_turn_is_killed_and_the_vip_stays(service: Path) -> None:
    before = int(show("MainPID"))
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: show("MainPID") not in ("0", str(before)), "another process", 120)
    assert f"{VIP}/32" in run("ip", "-o", "address", "show", "dev", "lo")
    wait_for(lambda: show("ActiveState") == "active", "the service", 120)
