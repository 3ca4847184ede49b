"""A network namespace of its own for a test, and the real host in it."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from dsr_agent.kernel.addresses import write
from dsr_agent.kernel.host import Host
from dsr_agent.kernel.netlink import Channel
from dsr_agent.state.actions import AddAddress
from dsr_agent.state.model import EVERYTHING, Address
from dsr_agent.state.report import Result
from dsr_agent.state.why import Why

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

NETWORK_CARD = [
    "ip link add nic type veth peer name segment",
    "ip link set nic up",
    "ip link set segment up",
    "ip addr add 10.0.3.2/24 dev nic",
]


def sh(*commands: str) -> str:
    """Run *commands*, ``sysctl -w`` as a write to the file; their output. The first complaint is an error."""
    printed = ""
    for command in commands:
        program, *words = shlex.split(command)
        if program == "sysctl":
            path, _, value = words[-1].partition("=")
            Path("/proc/sys", path).write_text(value)
            continue
        result = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}: {result.stderr}"
        printed += result.stdout
    return printed


def put(*addresses: Address) -> None:
    """Somebody adds *addresses*, mark and all (the ``ip`` of some distributions knows no ``proto``)."""
    channel = Channel()
    try:
        outcomes = write(channel, [AddAddress(address, Why.MISSING) for address in addresses], {"lo": 1})
    finally:
        channel.close()
    assert {outcome.result for outcome in outcomes} == {Result.DONE}


def routed(*addresses: str) -> None:
    """Wait until IPv6 *addresses*, which are there, have their routes, too: who asks before gets no answer."""
    end = time.monotonic() + 30
    while missing := [each for each in addresses if f"local {each} " not in sh("ip -6 route show table local")]:
        assert time.monotonic() < end, f"these never got their routes: {missing}"


def has_kind(kind: str) -> bool:
    """Whether this kernel has tunnel links of *kind*, or VRFs or bridges, tried out."""
    local = "2001:db8:99::1" if kind.startswith("ip6") else "10.99.0.1"
    about = {"vrf": ["table", "99"], "bridge": []}.get(kind, ["local", local])
    probe = ["ip", "link", "add", "probe0", "type", kind, *about]
    made = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    if made:
        sh("ip link del probe0")
    return made


@contextmanager
def namespace() -> Iterator[None]:
    """
    Be in a new network namespace with ``lo`` up, and back in the old one afterwards.

    Only the thread that runs the tests moves, and with it what it starts. Nothing in here can reach the interfaces of
    the machine: if the way back failed, the tests that follow would still be in this namespace.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.unshare(_CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            pytest.skip(
                f"needs a network namespace of its own, and may not have one ({os.strerror(code)}): run as root"
            )
        try:
            sh("ip link set lo up")
            yield
        finally:
            enter(before)
    finally:
        os.close(before)


def enter(descriptor: int) -> None:
    """Move this thread to the network namespace of an open file."""
    assert _LIBC.setns(descriptor, _CLONE_NEWNET) == 0


class RealWorld:
    """
    The real kernel behind `tests.fake.contract.World`.

    *strict* is for a machine that has every kind of link: there, a missing kind is a failure and not a reason to skip.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        sh(*NETWORK_CARD)
        self.kernel: Host

    async def __aenter__(self) -> Self:
        self.kernel = await Host().__aenter__()
        await self.kernel.observe(EVERYTHING)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.kernel.__aexit__(None, None, None)

    def needs(self, kind: str) -> None:
        """Try to make such a link, and skip with its name if there is none."""
        if has_kind(kind):
            return
        assert not self._strict, f"this machine should have links of kind {kind}"
        pytest.skip(f"this kernel has no links of kind {kind}")

    def sh(self, *commands: str) -> None:
        """Another process does it."""
        sh(*commands)

    def reach(self, target: str, source: str) -> None:
        """A route over the segment."""
        sh(f"ip route add {target}/32 via 10.0.3.1 src {source}")
