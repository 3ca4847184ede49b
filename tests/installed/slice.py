"""The slices ``installed-13`` and ``installed-12``: the package, on a Debian machine with nothing else, two boots."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab import suite
from tests.packages.conftest import build

NAMES = {"installed-13": "13", "installed-12": "12"}
TIMEOUT = 1500.0
NEWER = "9.9.9"  # than any


def packages(options: suite.Options) -> dict[str, Path]:
    """The package under test, and a newer one to upgrade to."""
    found = {}
    for name, version in (("one", ()), ("two", ("--version", NEWER))):
        out = build(options.scratch / f"packages-{name}", "deb", *version)
        (found[f"packages/{name}.deb"],) = out.glob("*.deb")
    return found


class Machine:
    """One machine from its first boot to the end of its second."""

    def __init__(self, name: str, files: dict[str, Path], options: suite.Options) -> None:
        self.outcome = suite.Outcome(name)
        self.log = options.scratch / f"{name}.log"
        self._out, self._start = options.scratch / name, time.monotonic()
        argv = [sys.executable, "-m", "tests.lab.machine", "--lane", "qemu", "--debian", NAMES[name]]
        argv += ["--profile", "full", "--reboots", "--timeout", str(TIMEOUT), "--out", str(self._out)]
        argv += [f"--file={file}={path}" for file, path in files.items()]
        self.argv = [*argv, "--", "sh", "tests/installed/guest.sh", *options.pytest]

    def finish(self, status: int) -> suite.Outcome:
        """Count what came back from both boots."""
        for boot in ("first", "second"):
            if (report := self._out / f"junit-{boot}.xml").exists():
                suite.count(self.outcome, report, 0)
            else:
                self.outcome.failed += 1
                self.outcome.notes.append(f"nothing came back from the {boot} boot")
        if status and not self.outcome.failed:
            self.outcome.failed += 1
            self.outcome.notes.append(suite.ENDINGS.get(status, f"ended with exit status {status}"))
        self.outcome.seconds = time.monotonic() - self._start
        return self.outcome


def run(names: list[str], options: suite.Options) -> Iterator[suite.Outcome]:
    """All of them at once: they wait more than they work."""
    try:
        files = packages(options)
    except AssertionError as error:
        print(error, flush=True)
        yield from (suite.Outcome(name, failed=1, notes=["packaging/build failed"]) for name in names)
        return
    with contextlib.ExitStack() as stack:
        machines = [Machine(name, files, options) for name in names]
        running = [(machine, stack.enter_context(suite.child(machine.argv, machine.log))) for machine in machines]
        for machine, process in running:
            suite.heading(machine.outcome.name, "the package on a Debian machine, under its own systemd")
            yield machine.finish(suite.follow(process, machine.log))
