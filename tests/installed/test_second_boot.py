"""The same machine after a reboot: everything is there in time; then an upgrade, and the end."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.installed.machine import (
    AGENT,
    CONFIG,
    FILE,
    RATE,
    TWO,
    Journal,
    active,
    answers,
    back,
    in_sync,
    on_lo,
    pid,
    sh,
    systemctl,
    wait_for,
)
from tests.installed.network import SEEN
from tests.lab.ledger import Ledger
from tests.lab.servers import PORT, VIPS, clean, streams, total
from tests.lab.spaces import run
from tests.lab.traffic import Answer, ask_tcp, ask_udp, client_ip
from tests.lab.world import RS1

APPLICATION = "lab-application.service"


def moment(unit: str, name: str) -> float:
    """When something happened in this boot, in seconds."""
    return int(run("systemctl", "show", "--value", "-p", f"{name}TimestampMonotonic", unit)) / 1e6


def test_the_vips_were_there_before_the_application(ledger: Ledger) -> None:
    wait_for(lambda: moment(APPLICATION, "ExecMainStart") > 0, "the application is started")
    started, up = moment(AGENT, "ExecMainStart"), moment(AGENT, "ActiveEnter")
    online, application = moment("network-online.target", "ActiveEnter"), moment(APPLICATION, "ExecMainStart")
    ledger.note(f"boot: agent starts {started:.1f} s, up {up:.1f}, online {online:.1f}, application {application:.1f}")
    assert up <= online <= application
    seen = SEEN.read_text()
    assert [address for address in VIPS if f" {address}/" not in seen] == []


def test_nothing_is_ordered_in_a_circle() -> None:
    assert "ordering cycle" not in run("journalctl", "-q", "-b", "-o", "cat", "_PID=1")


def test_it_serves() -> None:
    for address in VIPS:
        wait_for(lambda address=address: answers(address), f"an answer from {address}")  # type: ignore[misc]
        for ask in (ask_udp, ask_tcp):
            assert ask(address, PORT) == Answer(client_ip(address), RS1, address)
    assert in_sync()


def test_an_upgrade_loses_nothing(ledger: Ledger) -> None:
    journal, old, started = Journal(), pid(), time.monotonic()
    with streams(rate=RATE) as found:
        done = subprocess.run(["dpkg", "-i", TWO], capture_output=True, text=True, check=False)
        wait_for(lambda: back(old), "the new one is up")
        tally = total(found)
    ledger.add("upgrade", time.monotonic() - started, tally)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("(?i)error|warning|could not|fail", done.stderr), done.stderr
    assert clean(tally)
    assert run("dsr-agent", "--version") == "dsr-agent 9.9.9\n"
    assert FILE.read_text() == CONFIG
    journal.wait("nothing to do, in sync")


def test_teardown_takes_all_away_and_a_start_brings_it_back() -> None:
    systemctl("stop")
    assert on_lo() == set(VIPS)
    run("dsr-agent", "teardown")
    assert nothing_is_left()
    systemctl("start")
    wait_for(lambda: active() and in_sync() and all(answers(address) for address in VIPS), "all is back")


def nothing_is_left() -> bool:
    """No VIP and no tunnel."""
    return not on_lo() and "dsr-" not in run("ip", "-o", "link")


def test_removing_says_what_stays_and_loses_nothing(ledger: Ledger) -> None:
    with streams(rate=RATE) as found:
        done = subprocess.run(["dpkg", "-r", "dsr-agent"], capture_output=True, text=True, check=False)
        tally = total(found)
    ledger.add("remove", None, tally)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tunnels and VIPs stay" in done.stdout
    assert "dsr-agent teardown" in done.stdout
    assert clean(tally)
    assert subprocess.run(["pgrep", "-u", "dsr-agent"], check=False, capture_output=True).returncode == 1
    assert FILE.read_text() == CONFIG
    assert not Path("/usr/lib/dsr-agent").exists()


def test_purging_leaves_what_the_documentation_says() -> None:
    sh("rm -rf /etc/systemd/system/dsr-agent.service.d /run/systemd/system/dsr-agent.service.d")  # the tests' own
    done = subprocess.run(["dpkg", "-P", "dsr-agent"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    left = sh("find / -xdev \\( -name '*dsr-agent*' -o -name '*dsr_agent*' \\) -not -path '/var/lib/lab/*'").split()
    assert [path for path in left if not path.startswith(("/proc/", "/sys/"))] == []
    assert "not-found" in run("systemctl", "show", "-p", "LoadState", AGENT)
    assert sh("getent passwd dsr-agent").startswith("dsr-agent:")
    assert on_lo() == set(VIPS)


def test_what_stays_goes_away_as_the_manual_says() -> None:
    run("ip", "link", "delete", "group", "54741")
    run("ip", "address", "flush", "dev", "lo", "label", "lo:dsr")
    for line in run("ip", "-6", "-o", "address", "show", "dev", "lo").splitlines():
        if "proto 0xd5" in line:
            run("ip", "address", "del", line.split()[3], "dev", "lo")
    assert nothing_is_left() or not on_lo() - {VIPS[-1]}  # before Linux 5.18 and iproute2 6.3 nobody can tell
