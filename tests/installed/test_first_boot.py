"""
From a machine that has never heard of it to one that serves, and through whatever happens to a daemon.

The tests of this file follow one another: the package is installed once, and every test leaves the agent at work.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installed import machine
from tests.installed.machine import (
    AGENT,
    CONFIG,
    ON_13,
    ONE,
    RATE,
    Journal,
    active,
    answers,
    back,
    in_sync,
    on_lo,
    pid,
    reload,
    sh,
    show,
    systemctl,
    wait_for,
)
from tests.installed.network import KEPT, UNITS
from tests.lab.drift import Drift
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.servers import IPIP, PORT, VIPS, clean, streams, total
from tests.lab.spaces import run
from tests.lab.test_drift import DRIFTS, POLLED
from tests.lab.traffic import Answer, ask_tcp, ask_udp, client_ip
from tests.lab.world import RS1

MODULES = ("ipip", "sit", "ip_gre")


def what_serves() -> str:
    """The addresses on ``lo``, and all tunnels that are up."""
    return run("ip", "-o", "address", "show", "dev", "lo") + run("ip", "-o", "link", "show", "up", "type", "sit")


@pytest.fixture(scope="module", autouse=True)
def _network() -> None:
    """The lab's network and application, as services."""
    for name, text in UNITS.items():
        Path("/etc/systemd/system", name).write_text(text)
    folder = Path("/run/systemd/system/dsr-agent.service.d")
    folder.mkdir(parents=True)
    # Not so long that everybody gets tired, but long enough for a machine that is emulated on a busy host.
    (folder / "test.conf").write_text("[Service]\nWatchdogSec=15\nTimeoutStartSec=300\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--quiet", *UNITS)
    run("systemctl", "start", "lab-network.service")
    sh("ip link set lo down; ip link set lo up")  # from then on the kernel marks ::1 as its own


class TestInstalling:
    def test_with_nothing_but_the_package(self, ledger: Ledger) -> None:
        before = what_serves()
        started = time.monotonic()
        done = subprocess.run(["dpkg", "-i", ONE], capture_output=True, text=True, check=False)
        ledger.note(f"installed after {time.monotonic() - started:.1f} s")
        assert done.returncode == 0, done.stdout + done.stderr
        assert not re.search("(?i)error|warning|could not|fail", done.stderr), done.stderr
        assert what_serves() == before

    def test_the_service_is_up_and_has_nothing_to_do(self) -> None:
        wait_for(active, "the agent is up")
        assert run("systemctl", "is-enabled", AGENT) == "enabled\n"
        wait_for(lambda: any("0 tunnels, 0 VIPs" in line for line in Journal.all()), "the journal to have its word")

    def test_it_runs_as_its_own_user_with_two_capabilities(self) -> None:
        status = Path(f"/proc/{pid()}/status").read_text()
        assert f"Uid:\t{sh('id -u dsr-agent').strip()}\t" in status
        for kind in ("Prm", "Eff", "Bnd", "Amb"):
            assert re.search(rf"Cap{kind}:\t0+3000\n", status), kind  # bits 12 and 13: CAP_NET_ADMIN, CAP_NET_RAW
        assert "NoNewPrivs:\t1" in status

    def test_it_uses_what_it_brought(self) -> None:
        maps = Path(f"/proc/{pid()}/maps").read_text()
        assert "/usr/lib/dsr-agent/vendor/pydantic_core/_pydantic_core.cpython-3" in maps
        assert "dist-packages/pydantic" not in maps
        listing = (
            "import sys; sys.argv = ['x', 'check']; exec(open('/usr/bin/dsr-agent').read().replace('sys.exit', ''));"
        )
        listing += (
            "print({m.__file__ for m in sys.modules.values() if 'packages' in (getattr(m, '__file__', '') or '')})"
        )
        assert run("/usr/bin/python3", "-I", "-c", listing).splitlines()[-1] == "set()"

    def test_systemd_has_nothing_to_complain_about(self) -> None:
        done = subprocess.run(["systemd-analyze", "verify", AGENT], capture_output=True, text=True, check=False)
        complaints = [line for line in done.stderr.splitlines() if "man " not in line]  # man itself is not installed
        assert complaints == []
        journal = run("journalctl", "-q", "-b", "-o", "cat", "_PID=1")
        assert not [line for line in journal.splitlines() if "dsr-agent" in line and "nknown" in line]
        assert "ordering cycle" not in journal

    def test_the_sandbox_scores_well(self, ledger: Ledger) -> None:
        scored = run("systemd-analyze", "security", "--no-pager", AGENT).splitlines()[-1]
        ledger.note(scored)
        match = re.search(r"(\d+\.\d)", scored)
        assert match
        assert float(match.group(1)) <= 2.0

    def test_nothing_went_wrong(self) -> None:
        assert show("NRestarts") == "0"


class TestServing:
    def test_one_file_and_a_reload_bring_traffic(self) -> None:
        run("modprobe", "-r", *MODULES)  # nobody but the kernel itself may load them for it now
        assert not any(Path("/sys/module", module).exists() for module in MODULES)
        assert "in sync" in reload(CONFIG)
        assert on_lo() == set(VIPS)
        run("systemctl", "start", "lab-application.service")
        for address in VIPS:
            wait_for(lambda address=address: answers(address), f"an answer from {address}")  # type: ignore[misc]
            for ask in (ask_udp, ask_tcp):
                assert ask(address, PORT) == Answer(client_ip(address), RS1, address)

    def test_the_sysctls_are_written_from_inside_the_sandbox(self) -> None:
        for name in ("dsr-ipip", "dsr-gre"):
            assert Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").read_text() == "2\n"
            assert Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").read_text() == "0\n"
        assert Path("/proc/sys/net/ipv4/conf/eth0/arp_ignore").read_text() == "1\n"

    def test_status_works_for_everybody(self) -> None:
        assert in_sync()
        assert run("setpriv", "--reuid=nobody", "--clear-groups", "dsr-agent", "status")

    def test_a_bad_file_changes_nothing(self) -> None:
        with streams(rate=RATE) as found:
            line = reload(CONFIG.replace("ipip", "ipop"), expect="dsr-agent.toml")
            assert "ipop" in line
            machine.Journal()
            wait_for(lambda: active() and on_lo() == set(VIPS), "all as before")
            assert clean(total(found))
        assert "nothing to do, in sync" in reload(CONFIG)


WANTED = {
    "VIP deleted", "IPv6 VIP deleted", "ipip tunnel deleted", "gre tunnel deleted", "ipip tunnel set down",
    "gre tunnel rp_filter = 1", "ipip tunnel forwarding = 1", "modprobe -r sit", "lo down and up",
    "arp_ignore lowered (polled)",
}  # fmt: skip


@pytest.fixture(scope="module")
def eye() -> Iterator[Eye]:
    """Sees what the agent keeps."""
    with contextlib.closing(Eye(RS1)) as found:
        yield found


@ON_13
@pytest.mark.parametrize("drift", [drift for drift in (*DRIFTS, *POLLED) if drift.what in WANTED], ids=lambda d: d.what)
def test_drift_is_repaired_from_inside_the_sandbox(drift: Drift, eye: Eye, ledger: Ledger) -> None:
    before, journal = eye.view(), Journal()
    drift.do()
    ledger.add(drift.what, eye.until_again(before), None)
    journal.wait("")  # not without a word
    wait_for(in_sync, "all else to follow")


@ON_13
def test_who_undid_it_is_seen_from_inside_the_sandbox() -> None:
    journal = Journal()
    with subprocess.Popen(["ip", "-batch", "-"], stdin=subprocess.PIPE, text=True) as meddler:
        assert meddler.stdin
        print(f"address del {IPIP}/32 dev lo", file=meddler.stdin, flush=True)
        journal.wait(f"undone by ip (process {meddler.pid})")


@ON_13
def test_why_a_module_cannot_be_had_is_seen_from_inside_the_sandbox() -> None:
    forbidding, journal = Path("/etc/modprobe.d/lab.conf"), Journal()
    forbidding.write_text("blacklist ip_gre\n")
    try:
        run("modprobe", "-r", "ip_gre")
        journal.wait("module ip_gre is blacklisted in /etc/modprobe.d/lab.conf, line 1")
    finally:
        forbidding.unlink()
    reload()
    wait_for(in_sync, "the tunnel is back")


def guard_table() -> str:
    """The guard's table without its counters, or nothing."""
    found = subprocess.run(
        ["nft", "-s", "list", "table", "inet", "dsr_agent"], capture_output=True, text=True, check=False
    )
    return found.stdout


def test_the_guard_is_in_place_and_outlives_whoever_flushes_it(ledger: Ledger) -> None:
    """Owned where kernel and nftables can (Debian 13); put back from inside the sandbox where they cannot."""
    before = guard_table()
    assert "guard: in place" in run("dsr-agent", "status")
    held = "flags owner" in before
    windows = []
    with streams(rate=RATE) as found:
        for _ in range(20):
            run("nft", "flush", "ruleset")
            windows.append(wait_for(lambda: guard_table() == before, "the guard is back"))
        tally = total(found)
    whose = "owned" if held else "not owned"
    ledger.add(f"nft flush ruleset 20 times, guard {whose}", None if held else sorted(windows)[10], tally)
    assert clean(tally)
    assert held == (int(run("nft", "--version").split()[1].lstrip("v").split(".")[1]) >= 1)


# --- what happens to a daemon ---------------------------------------------------------------------------------------


def restart() -> None:
    systemctl("restart")


def stop_and_start() -> None:
    systemctl("stop")
    assert not active()
    assert on_lo() == set(VIPS)
    systemctl("start")


def kill() -> None:
    os.kill(running(), signal.SIGKILL)


def freeze() -> None:
    os.kill(running(), signal.SIGSTOP)


def running() -> int:
    """The agent's process; there is one, for a signal to process 0 would go to the tests themselves."""
    found = pid()
    assert found, "\n".join(Journal.all()[-15:])
    return found


@pytest.mark.parametrize(
    ("what", "do", "words"),
    [
        ("systemctl stop, start", stop_and_start, ("stopped; tunnels and VIPs stay",)),
        ("kill -9", kill, ("code=killed", "status=9/KILL")),
        pytest.param("SIGSTOP", freeze, ("Watchdog timeout",), marks=ON_13),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_no_packet_is_lost_and_the_agent_comes_back(
    what: str, do: Callable[[], None], words: tuple[str, ...], ledger: Ledger
) -> None:
    journal, old = Journal(), pid()
    with streams(rate=RATE) as found:
        started = time.monotonic()
        do()
        wait_for(lambda: back(old), "the agent is back")
        seconds = time.monotonic() - started
        tally = total(found)
    ledger.add(what, seconds, tally)
    assert clean(tally)
    journal.wait(*words)
    journal.wait("nothing to do, in sync")


def still_at_work() -> None:
    """It repairs: a packet may be lost, as a VIP is missing for a moment."""
    run("ip", "address", "del", f"{IPIP}/32", "dev", "lo")
    wait_for(lambda: on_lo() == set(VIPS), "the VIP is back")


def test_a_full_disk(ledger: Ledger) -> None:
    filler, journal, old = KEPT / "filler", Journal(), pid()
    try:
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4M"], capture_output=True, check=False)
        with pytest.raises(OSError, match="No space"):
            (KEPT / "one-more").write_bytes(bytes(1 << 20))
        still_at_work()
        with streams(rate=RATE) as found:
            if int(run("systemctl", "--version").split()[1]) >= 257:
                restart()
                systemctl("reload")
            else:  # it makes the sandbox's /dev in /tmp, on the full disk
                assert subprocess.run(["systemctl", "restart", AGENT], check=False, capture_output=True).returncode != 0
                journal.wait("No space left on device")
                filler.unlink()
                wait_for(lambda: back(old), "the agent is back")
            tally = total(found)
        still_at_work()
    finally:
        filler.unlink(missing_ok=True)
        (KEPT / "one-more").unlink(missing_ok=True)
    ledger.add("restart with a full disk", None, tally)
    assert clean(tally)
    journal.wait("nothing to do, in sync")


@ON_13
def test_a_runtime_directory_that_cannot_be_written(ledger: Ledger) -> None:
    """systemd cannot start anything in it, not even the kill of a reload; it says so, and goes on trying."""
    journal, old = Journal(), pid()
    sh("mount -t tmpfs -o ro none /run/dsr-agent")
    try:
        with streams(rate=RATE) as found:
            assert subprocess.run(["systemctl", "reload", AGENT], check=False, capture_output=True).returncode != 0
            assert pid() == old
            os.kill(old, signal.SIGHUP)
            journal.wait("read the file again")
            assert subprocess.run(["systemctl", "restart", AGENT], check=False, capture_output=True).returncode != 0
            sh("umount /run/dsr-agent")
            wait_for(lambda: back(old), "the agent is back")
            tally = total(found)
        ledger.add("runtime directory read-only", None, tally)
        assert clean(tally)
    finally:
        subprocess.run(["umount", "-q", "/run/dsr-agent"], check=False)
    journal.wait("status=233/RUNTIME_DIRECTORY")
    journal.wait("nothing to do, in sync")
    still_at_work()


@ON_13
def test_the_clock_jumps_by_a_day(ledger: Ledger) -> None:
    old = pid()
    with streams(rate=RATE) as found:
        for jump in ("+1 day", "-1 day"):
            sh(f"date -s '{jump}'")
            Path("/proc/sys/net/ipv4/conf/eth0/arp_ignore").write_text("0\n")  # only a poll can find that
            wait_for(lambda: Path("/proc/sys/net/ipv4/conf/eth0/arp_ignore").read_text() == "1\n", "the poll goes on")
        tally = total(found)
    ledger.add("the clock, a day forth and back", None, tally)
    assert clean(tally)
    assert pid() == old
    still_at_work()


# --- other programs that keep a network -----------------------------------------------------------------------------


@ON_13
def test_networkd_that_takes_every_device(ledger: Ledger) -> None:
    taking = Path("/etc/systemd/network/80-all.network")
    taking.parent.mkdir(exist_ok=True)
    taking.write_text("[Match]\nName=dsr-* dummy*\n\n[Network]\nLinkLocalAddressing=no\n")
    try:
        with streams(rate=RATE) as found:
            run("networkctl", "reload")
            run("systemctl", "restart", "systemd-networkd")
            run("ip", "link", "add", "dummy7", "type", "dummy")
            wait_for(
                lambda: "configured" in run("networkctl", "list", "--no-legend", "dummy7"), "networkd took a device"
            )
            tally = total(found)
        ledger.add("networkd that takes every device", None, tally)
        wait_for(lambda: "unmanaged" in run("networkctl", "list", "--no-legend", "dsr-ipip"), "networkd to leave ours")
        assert clean(tally)
        assert in_sync()
    finally:
        taking.unlink()
        run("ip", "link", "del", "dummy7")
        run("networkctl", "reload")
