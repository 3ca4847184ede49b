"""What the tests do with this machine: its service manager, its journal, its packages, its kernel."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab.agent import tunnel, vip
from tests.lab.marks import LONG
from tests.lab.servers import PORT, VIPS
from tests.lab.spaces import run
from tests.lab.traffic import ask_udp

AGENT = "dsr-agent.service"
FILE = Path("/etc/dsr-agent.toml")
CONFIG = tunnel("ipip") + tunnel("gre") + "".join(vip(address) for address in VIPS)
ONE, TWO = "packages/one.deb", "packages/two.deb"  # the older and the newer build
DEADLINE = 180.0  # an emulated machine on a busy host is thirty times slower than what it stands for
PAUSE = 0.2  # between two looks: most are processes, which cost such a machine more than what is waited for
RATE = 25.0


# What has nothing to do with which Debian it is; a long campaign tries it on both.
ON_13 = pytest.mark.skipif(sys.version_info < (3, 13) and not LONG, reason="tried on Debian 13; here too with --long")


def wait_for(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> float:
    """Seconds until *condition* holds; `TimeoutError` with *what* was waited for, and the agent's journal."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > deadline:
            tail = "\n".join(Journal.all()[-15:])
            raise TimeoutError(f"{what}: not within {deadline:.0f} s; the journal ends with\n{tail}")
        time.sleep(PAUSE)
    return time.monotonic() - started


def sh(command: str) -> str:
    """A line of shell; its complaint is the failure."""
    return run("sh", "-ec", command)


def systemctl(verb: str) -> None:
    """Do that to the agent's unit; if it cannot be done, what the journal says."""
    done = subprocess.run(["systemctl", verb, AGENT], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(Journal.all()[-15:])
        raise RuntimeError(f"systemctl {verb}: {done.stderr}the journal ends with\n{tail}")


def show(name: str) -> str:
    """One property of the agent's unit."""
    return run("systemctl", "show", "--value", "-p", name, AGENT).strip()


def back(old: int) -> bool:
    """Whether another process has taken over, and is up."""
    shown = run("systemctl", "show", "-p", "ActiveState,MainPID", AGENT).splitlines()
    state = dict(line.split("=", 1) for line in shown)
    return state["ActiveState"] == "active" and int(state["MainPID"]) not in (0, old)


def pid() -> int:
    """The agent's process."""
    return int(show("MainPID"))


def active() -> bool:
    """Whether the agent is up, and has said so."""
    return show("ActiveState") == "active"


def in_sync() -> bool:
    """What ``dsr-agent status`` says."""
    return subprocess.run(["dsr-agent", "status"], capture_output=True, check=False).returncode == 0


def on_lo() -> set[str]:
    """The VIPs that this machine has."""
    words = run("ip", "-o", "address", "show", "dev", "lo").split()
    return {address for address in VIPS if any(word.startswith(f"{address}/") for word in words)}


def answers(address: str) -> bool:
    """Whether the application answers from a VIP."""
    with suppress(OSError):
        ask_udp(address, PORT, timeout=0.5)
        return True
    return False


class Journal:
    """The agent's journal from the moment this is made."""

    def __init__(self) -> None:
        # The cursor of a line that is not the unit's own makes journalctl 252 skip the next one that is.
        last = run("journalctl", "-q", "-u", AGENT, "-n", "1", "--show-cursor", "-o", "cat").splitlines()[-1]
        self._cursor = last.removeprefix("-- cursor: ")

    def lines(self) -> list[str]:
        """What has been said since, by the agent and about it."""
        return run("journalctl", "-q", "-u", AGENT, "-o", "cat", f"--after-cursor={self._cursor}").splitlines()

    def wait(self, *words: str, deadline: float = DEADLINE) -> str:
        """The first line since that has all the words."""

        def found() -> list[str]:
            return [line for line in self.lines() if all(word in line for word in words)]

        wait_for(lambda: bool(found()), f"a line of the journal with {words}", deadline)
        return found()[0]

    @staticmethod
    def all() -> list[str]:
        """All of it."""
        return run("journalctl", "-q", "-u", AGENT, "-o", "cat").splitlines()


def reload(config: str | None = None, expect: str = "read the file again: ") -> str:
    """Another text for the file, ``systemctl reload``, and what the agent says to it."""
    journal = Journal()
    if config is not None:
        FILE.write_text(config)
    systemctl("reload")
    return journal.wait(expect)
