"""What the tests of the guard share: whether there can be one, and nftables on the real server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.lab.agent import has_inet_tables, wait_for
from tests.lab.spaces import inside, run
from tests.lab.world import RS1

GUARD = "[guard]\nenabled = true\n"
TABLE = "inet dsr_agent"
WITHOUT_GUARD = '[guard]\nenabled = false\nfallback_devices = "ignore"\n'


def need_guard() -> None:
    """Skip where there can be no guard: user-mode Linux has no such tables."""
    if not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")


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
    wait_for(lambda: refused(reason) == before + packets, f"{packets} packets refused ({reason})")
