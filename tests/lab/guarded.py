"""What the tests of the guard share: whether there can be one, and nftables on the real server."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile

import pytest

from tests.lab.agent import tunnel, vip
from tests.lab.spaces import inside, run
from tests.lab.world import RS1

GUARD = "[guard]\nenabled = true\n"
TABLE = "inet dsr_agent"


def need_inet_tables() -> None:
    """Skip where the kernel has no such tables, as user-mode Linux."""
    if not _has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")


def need_guard() -> None:
    """Skip where there can be no guard."""
    need_inet_tables()
    if not _knows_guard():
        pytest.skip("this agent knows no [guard]")


def without_guard() -> str:
    """What a file has to say for there to be none."""
    return '[guard]\nenabled = false\nfallback_devices = "ignore"\n' if _knows_guard() else ""


@functools.cache
def _has_inet_tables() -> bool:
    table = "add table inet dsr_lab_probe\ndelete table inet dsr_lab_probe\n"
    return subprocess.run(["nft", "-f", "-"], input=table, text=True, capture_output=True, check=False).returncode == 0


@functools.cache
def _knows_guard() -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(GUARD + tunnel("ipip") + vip("192.0.2.10"))
        file.flush()
        argv = [sys.executable, "-m", "dsr_agent", "check", "--config", file.name]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def nft(*arguments: str, given: str = "") -> str:
    """``nft`` on the real server."""
    with inside(RS1):
        return run("nft", *arguments, given=given)
