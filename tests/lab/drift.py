"""Undoing something on a real server, as another program would, and timing its repair under traffic."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.lab.eye import Eye
from tests.lab.servers import PORT
from tests.lab.spaces import inside, run, set_sysctls
from tests.lab.traffic import Stream, Tally
from tests.lab.world import RS1

Do = Callable[[], object]


@dataclass(frozen=True)
class Drift:
    """Something another program does, and the VIP whose traffic is watched meanwhile."""

    what: str
    address: str
    do: Do

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


def shell(*commands: str) -> Do:
    """
    Commands in the real server's namespace.

    Modules are the machine's, and where there is no machine they are the host's own, which others may be using.
    """

    def do() -> None:
        if os.environ.get("DSR_LAB") == "here" and any(command.startswith("modprobe -r") for command in commands):
            pytest.skip(f"the modules here are the host's own: {', '.join(commands)}")
        with inside(RS1):
            for command in commands:
                run(*command.split())

    return do


def write(path: str, value: int) -> Do:
    """A sysctl of the real server."""
    return lambda: set_sysctls(RS1, {path: value})


@dataclass(frozen=True)
class Repair:
    """How long it took from the end of the doing until all was as before, and what the traffic noticed."""

    seconds: float
    tally: Tally


def repair_of(drift: Drift, eye: Eye, rate: float = 250) -> Repair:
    """Do it under traffic, and wait until all is as it was and the traffic flows."""
    before = eye.view()
    with Stream(drift.address, PORT, rate) as stream:
        stream.wait_answered()
        drift.do()
        seconds = eye.until_again(before)
        stream.wait_answered(50)
        return Repair(seconds, stream.finish())
