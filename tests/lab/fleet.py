"""Machines of the lab at work: as many at once as this host has processors for; what they print is shown in turn."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.lab.machine.job import REPOSITORY
from tests.lab.outcome import Outcome

# Of a processor. A machine that is emulated never waits; the tests in user-mode Linux often do.
EMULATED, USER_MODE = 1.0, 0.5


@dataclass
class Run:
    """A command that runs a machine; what it prints goes to *log*. *weight*: how much of a processor it keeps busy."""

    argv: list[str]
    log: Path
    weight: float = EMULATED
    started: float = field(default=0.0, init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


class MachineSlice(Protocol):
    """A slice of the tests that runs in machines."""

    outcome: Outcome
    title: str
    runs: list[Run]

    def finish(self, statuses: list[int]) -> Outcome:
        """Count what came back, given how each run ended."""


@contextlib.contextmanager
def child(argv: list[str], output: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with us, whatever happens to us."""
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(output.open("wb")) if output else None
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *argv],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT if stdout else None,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


class Fleet:
    """
    Starts runs in the order in which they are added, as there is room for them. A context manager that ends them all.

    While *busy*, this process itself has work for one processor.
    """

    def __init__(self) -> None:
        self.busy = False
        self._room = float(max(2, os.cpu_count() or 1))
        self._runs: list[Run] = []
        self._stack = contextlib.ExitStack()

    def add(self, *runs: Run) -> None:
        """Start them, now or when others have ended."""
        self._runs += runs
        self._start()

    def _start(self) -> None:
        for run in self._runs:
            if run.process is None:
                taken = self.busy + sum(other.weight for other in self._runs if other.runs)
                if taken + run.weight > self._room + 0.01:
                    return
                run.started = time.monotonic()
                run.process = self._stack.enter_context(child(run.argv, run.log))

    def follow(self, run: Run) -> int:
        """Show what a run prints until it ends; its exit status."""
        while run.process is None:
            self._start()
            time.sleep(0.2)
        with run.log.open("rb") as log:
            while True:
                self._start()
                ended = not run.runs
                data = log.read()
                if data:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                elif ended:
                    return run.process.wait()
                else:
                    time.sleep(0.2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
