"""Running a machine: its console shown live, its time limited, its processes ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.lab.machine.job import Result

BEGINS = b"\x1ejob begins"
ENDS = b"\x1ejob ends"
POLL = 0.2


@dataclass(frozen=True)
class Ending:
    """How the machine's process ended; ``timed_out`` names the limit that was reached."""

    began: bool
    ended: bool
    timed_out: str
    returncode: int


class Console:
    """Splits what a machine prints: everything to the log, the job's own part to the terminal."""

    def __init__(self, log: BinaryIO, show: Callable[[bytes], None]) -> None:
        self.began = False
        self.ended = False
        self._log = log
        self._show = show
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what the machine just printed."""
        self._log.write(data)
        self._log.flush()
        self._rest += data
        if not self.began:
            _, mark, after = self._rest.partition(BEGINS)
            if not mark or b"\n" not in after:
                return
            self.began = True
            self._rest = after.split(b"\n", 1)[1]
        if not self.ended:
            self._job_output()

    def _job_output(self) -> None:
        before, mark, _ = self._rest.partition(ENDS)
        if mark:
            self.ended = True
            self._show(before)
            self._rest = b""
            return
        keep = self._rest.rfind(b"\x1e")  # may be the start of the mark
        if keep < 0 or len(self._rest) - keep > len(ENDS):
            keep = len(self._rest)
        self._show(self._rest[:keep])
        self._rest = self._rest[keep:]

    def flush(self) -> None:
        """Show what was held back when the machine stops in the middle."""
        if self.began and not self.ended:
            self._show(self._rest)
            self._rest = b""


def to_terminal(data: bytes) -> None:
    """Pass on the job's output as it comes."""
    data = data.replace(b"\r\n", b"\n")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def run(argv: Sequence[str], *, log: Path, timeout: float, boot_timeout: float) -> Ending:
    """Run a machine until it stops by itself, a limit is reached or we are interrupted; never leave it running."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    timed_out = ""
    with log.open("wb") as file, selectors.DefaultSelector() as selector:
        console = Console(file, to_terminal)
        start = time.monotonic()
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while not timed_out:
                if selector.select(POLL):
                    data = os.read(process.stdout.fileno(), 65536)
                    if not data:
                        break
                    console.feed(data)
                elif process.poll() is not None:
                    break
                elapsed = time.monotonic() - start
                if elapsed > timeout:
                    timed_out = f"timed out after {timeout:.0f} s"
                elif not console.began and elapsed > boot_timeout:
                    timed_out = f"timed out after {boot_timeout:.0f} s without having begun the job"
            console.flush()
        finally:
            _end(process, grace=3.0 if console.ended else 0.0)
    return Ending(console.began, console.ended, timed_out, process.returncode)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End the machine and everything it started, after a moment in which to go by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def judge(lane: str, status: int | None, ending: Ending, log: Path, start: float) -> Result:
    """What a finished machine amounts to; if it gave no status back, why, and the end of its console."""
    seconds = time.monotonic() - start
    if status is not None:
        return Result(lane, status, seconds)
    trouble = ending.timed_out or f"the machine stopped without a result (its process ended with {ending.returncode})"
    if ending.began:  # its output has been shown as it came
        return Result(lane, None, seconds, trouble)
    tail = log.read_bytes().decode(errors="replace").replace("\r", "").splitlines()[-30:]
    print("\n".join(["lab: the end of the machine's console:", *(f"  | {line}" for line in tail)]), file=sys.stderr)
    return Result(lane, None, seconds, trouble, began=False)
