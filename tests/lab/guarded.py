"""What the tests of the guard share: whether there can be one, and nftables on the real server."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.lab.agent import tunnel, vip, wait_for
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


def refused(reason: str) -> int:
    """How many packets the guard has refused for *reason*."""
    listed = json.loads(nft("-j", "list", "counter", *TABLE.split(), reason))["nftables"]
    return next(int(item["counter"]["packets"]) for item in listed if "counter" in item)


@contextlib.contextmanager
def refusing(reason: str, packets: int) -> Iterator[None]:
    """What is sent meanwhile is refused, for this *reason*."""
    before = refused(reason)
    yield
    wait_for(lambda: refused(reason) == before + packets, f"{packets} packets refused ({reason})", 20)
