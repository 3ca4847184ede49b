"""The slices ``installed-13`` and ``installed-12``: the package, on a Debian machine with nothing else, two boots."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.lab import fleet
from tests.lab.machine import images, lanes
from tests.lab.outcome import ENDINGS, Options, Outcome
from tests.packages.conftest import build

NAMES = {"installed-13": "13", "installed-12": "12"}
TIMEOUT = 2400.0
NEWER = "9.9.9"  # than any


def packages(options: Options) -> dict[str, Path]:
    """The package under test, and a newer one to upgrade to. `AssertionError` if they cannot be built."""
    found = {}
    for name, version in (("one", ()), ("two", ("--version", NEWER))):
        out = build(options.scratch / f"packages-{name}", "deb", *version)
        (found[f"packages/{name}.deb"],) = out.glob("*.deb")
    return found


class InstalledSlice:
    """One machine from its first boot to the end of its second."""

    title = "the package on a Debian machine, under its own systemd"

    def __init__(self, name: str, files: dict[str, Path], options: Options) -> None:
        """`LaneError` if there can be no such machine."""
        lanes.choose("qemu")
        images.disk(images.DEBIANS[NAMES[name]])
        self.outcome = Outcome(name)
        self._out = options.scratch / name
        argv = [sys.executable, "-m", "tests.lab.machine", "--lane", "qemu", "--debian", NAMES[name]]
        argv += ["--profile", "full", "--reboots", "--timeout", str(TIMEOUT), "--out", str(self._out)]
        argv += [f"--file={file}={path}" for file, path in files.items()]
        argv += ["--env", "DSR_LONG=1"] if options.long else []
        argv += ["--", "sh", "tests/installed/guest.sh", *options.pytest]
        self.runs = [fleet.Run(argv, options.scratch / f"{name}.log")]

    def finish(self, statuses: list[int]) -> Outcome:
        """Count what came back from both boots."""
        for boot in ("first", "second"):
            if (report := self._out / f"junit-{boot}.xml").exists():
                self.outcome.count(report, 0)
            else:
                self.outcome.failed += 1
                self.outcome.notes.append(f"nothing came back from the {boot} boot")
        if (status := statuses[0]) and not self.outcome.failed:
            self.outcome.failed += 1
            self.outcome.notes.append(ENDINGS.get(status, f"ended with exit status {status}"))
        self.outcome.seconds = time.monotonic() - self.runs[0].started
        return self.outcome
