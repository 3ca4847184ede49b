"""The slices ``installed-13`` and ``installed-12``: the package, on a Debian machine with nothing else, two boots."""

from __future__ import annotations

import sys
import time
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
        out = options.scratch / f"packages-{name}"
        if not out.exists():
            build(out, "deb", *version)
        (found[f"packages/{name}.deb"],) = out.glob("*.deb")
    return found


def run(name: str, options: suite.Options) -> suite.Outcome:
    """One machine from its first boot to the end of its second."""
    outcome, start = suite.Outcome(name), time.monotonic()
    try:
        files = packages(options)
    except AssertionError as error:
        print(error, flush=True)
        outcome.failed += 1
        outcome.notes.append("packaging/build failed")
        return outcome
    out = options.scratch / name
    argv = [sys.executable, "-m", "tests.lab.machine", "--lane", "qemu", "--debian", NAMES[name], "--profile", "full"]
    argv += ["--reboots", "--timeout", str(TIMEOUT), "--out", str(out)]
    argv += [f"--file={file}={path}" for file, path in files.items()]
    with suite.child([*argv, "--", "sh", "tests/installed/guest.sh", *options.pytest]) as process:
        status = process.wait()
    for boot in ("first", "second"):
        if (report := out / f"junit-{boot}.xml").exists():
            suite.count(outcome, report, 0)
        else:
            outcome.failed += 1
            outcome.notes.append(f"nothing came back from the {boot} boot")
    if status and not outcome.failed:
        outcome.failed += 1
        outcome.notes.append(suite.ENDINGS.get(status, f"ended with exit status {status}"))
    outcome.seconds = time.monotonic() - start
    return outcome
