"""The slices ``lab-fast`` and ``lab-reference``: ``tests/lab`` on kernels that were brought along."""

from __future__ import annotations

import sys
import time

from tests.lab import again, fleet
from tests.lab.machine import lanes
from tests.lab.outcome import Options, Outcome

SHARES = 2  # of the fast tests, each in a machine of its own
TIMEOUT = 1500  # seconds for the tests of a machine
SLOWER = 2  # under emulation
LONGER = 4  # with --long
LAST_WORDS = 120  # seconds before the end in which no test is begun, so that what there is can be told


class LabSlice:
    """``tests/lab`` in one lane, in one machine or some."""

    def __init__(self, name: str, lane: str, options: Options) -> None:
        self.outcome = Outcome(name)
        self.title = "tests/lab on a Debian 13 machine" if lane == "qemu" else "tests/lab on a real kernel, fast"
        shares = SHARES if lane == "uml" and not options.pytest else 1
        self._outs = [options.scratch / f"{name}-{number}" for number in range(1, shares + 1)]
        weight = {"uml": fleet.USER_MODE}.get(lane, fleet.EMULATED)
        common = _command(name == "lab-reference", lane, options)
        self.runs = [
            fleet.Run(
                [*common[0], "--out", str(out), *common[1], f"--share={number}/{shares}"],
                options.scratch / f"{out.name}.log",
                weight,
            )
            for number, out in enumerate(self._outs, 1)
        ]

    def finish(self, statuses: list[int]) -> Outcome:
        """Count what came back."""
        for out, status in zip(self._outs, statuses, strict=True):
            self.outcome.count(out / again.FIRST.name, status, out / again.SECOND.name)
        self.outcome.seconds = time.monotonic() - min(run.started for run in self.runs)
        return self.outcome


def _command(reference: bool, lane: str, options: Options) -> tuple[list[str], list[str]]:
    """The machine, and pytest in it."""
    limit = TIMEOUT * (SLOWER if lane == "qemu" else 1) * (LONGER if options.long else 1)
    machine = [sys.executable, "-m", "tests.lab.machine", "--lane", lane, "--timeout", str(limit)]
    machine += ["--profile", "full" if reference else "lean", *(["--env", "DSR_LONG=1"] if options.long else [])]
    pytest = ["--", "python3", "-m", "tests.lab.again", str(limit - LAST_WORDS), "tests/lab"]
    pytest += ["--timeout=600" if lane == "qemu" else "--timeout=120"]
    return machine, [*pytest, *options.marks("reference" if reference else "not reference"), *options.pytest]


def fast_lane() -> tuple[str, list[str]]:
    """The lane for the fast tests; if another has to stand in, the summary says so."""
    lane = lanes.choose("auto")
    where = {"qemu": "in qemu", "here": "on this host's own kernel"}.get(lane)
    return lane, [f"{where}, because user-mode Linux cannot be had here"] if where else []


def lab(name: str, options: Options) -> LabSlice:
    """One of the two slices; `LaneError` if there can be no machine for it."""
    lane, notes = fast_lane() if name == "lab-fast" else (lanes.choose("qemu"), [])
    found = LabSlice(name, lane, options)
    found.outcome.notes += notes
    return found
