"""Undoing something on a real server, as another program would, and timing its repair under traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    """Commands in the real server's namespace."""

    def do() -> None:
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
