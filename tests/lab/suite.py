"""``tests/run``: the tests slice by slice, and a table of how each went."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.installed.slice import InstalledSlice
from tests.installed.slice import packages as build_packages
from tests.lab.fleet import Fleet, MachineSlice, child
from tests.lab.machine.job import REPOSITORY, LaneError, say
from tests.lab.machine_slices import lab
from tests.lab.outcome import Options, Outcome, table

PROGRAMS = Path(sys.executable).parent


def heading(name: str, text: str) -> None:
    """Tell slices apart on the terminal."""
    print(f"\n== {name}: {text}", flush=True)


def lint(options: Options) -> Outcome:
    """The source: style, types, and which room may import which."""
    outcome = Outcome("lint")
    checks = {
        "ruff check": ["ruff", "check", "--quiet", "."],
        "ruff format": ["ruff", "format", "--check", "--quiet", "."],
        "mypy": ["mypy", "--explicit-package-bases", "--no-error-summary"],
        "import-linter": ["lint-imports"],
    }
    for name, (program, *arguments) in checks.items():
        done = subprocess.run(
            [str(PROGRAMS / program), *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        print(f"{name}: {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
        if done.returncode == 0:
            outcome.passed += 1
        else:
            outcome.failed += 1
            outcome.notes.append(f"{name} failed")
            print(done.stdout + done.stderr, flush=True)
    return outcome


def pytest_here(name: str, options: Options, wrap: list[str]) -> Outcome:
    """Run a folder of tests on this host."""
    outcome = Outcome(name)
    folder = REPOSITORY / "tests" / name
    if not any(folder.rglob("test_*.py")):
        print("no tests", flush=True)
        outcome.notes.append("no tests")
        return outcome
    report = options.scratch / f"{name}.xml"
    argv = [*wrap, sys.executable, "-m", "pytest", "-q", f"tests/{name}", f"--junitxml={report}"]
    with child([*argv, *options.marks(), *options.pytest]) as process:
        status = process.wait()
    outcome.count(report, status)
    return outcome


def unit(options: Options) -> Outcome:
    """Pure modules."""
    return pytest_here("unit", options, [])


def fake(options: Options) -> Outcome:
    """The reconciler over a kernel made of Python."""
    return pytest_here("fake", options, [])


def packages(options: Options) -> Outcome:
    """What packaging/build makes, before anybody installs it."""
    return pytest_here("packages", options, [])


def netns(options: Options) -> Outcome:
    """This host's kernel, in namespaces.

    The whole slice is in one already, so that not even a mistake reaches the host's own interfaces.
    """
    if os.geteuid() != 0:
        return Outcome("netns", skipped=1, notes=["skipped: needs root"])
    inside = 'mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip link set lo up; exec "$@"'
    return pytest_here("netns", options, ["unshare", "--net", "--mount", "sh", "-ec", inside, "sh"])


INNER: dict[str, Callable[[Options], Outcome]] = {
    "lint": lint,
    "unit": unit,
    "fake": fake,
    "netns": netns,
    "packages": packages,
}
LAB = ("lab-fast", "lab-reference")
INSTALLED = ("installed-13", "installed-12")
MACHINES = (*LAB, *INSTALLED)
LONGEST = "lab-reference"


def machine_slices(names: list[str], options: Options) -> Iterator[MachineSlice | Outcome]:
    """What these slices run in machines; an outcome already where there can be none."""
    files: dict[str, Path] = {}
    for name in names:
        try:
            if name in LAB:
                yield lab(name, options)
                continue
            files = files or build_packages(options)
            yield InstalledSlice(name, files, options)
        except LaneError as reason:
            yield Outcome(name, failed=1, notes=[f"cannot run: {reason}"])
        except AssertionError as error:
            print(error, flush=True)
            yield Outcome(name, failed=1, notes=["packaging/build failed"])


def run(wanted: list[str], options: Options) -> Iterator[Outcome]:
    """
    Run the slices in order.

    The Debian machine, which takes longest, begins at once; the others follow as processors become free.
    """
    inner, machines = [name for name in INNER if name in wanted], [name for name in MACHINES if name in wanted]
    ready: dict[str, MachineSlice | Outcome] = {}
    with Fleet() as fleet:
        if LONGEST in machines and len(wanted) > 1:
            say("the reference machine runs in the background meanwhile")
            ready |= prepare([LONGEST], fleet, options)
        fleet.busy = True
        for name in inner:
            slice_ = INNER[name]
            heading(name, (slice_.__doc__ or "").splitlines()[0].rstrip("."))
            start = time.monotonic()
            outcome = slice_(options)
            outcome.seconds = time.monotonic() - start
            yield outcome
        fleet.busy = False
        ready |= prepare([name for name in machines if name not in ready], fleet, options)
        for name in machines:
            found = ready[name]
            yield found if isinstance(found, Outcome) else follow(found, fleet)


def prepare(names: list[str], fleet: Fleet, options: Options) -> dict[str, MachineSlice | Outcome]:
    """Have the fleet begin with these slices."""
    found: dict[str, MachineSlice | Outcome] = {}
    for name, slice_ in zip(names, machine_slices(names, options), strict=True):
        found[name] = slice_
        if not isinstance(slice_, Outcome):
            fleet.add(*slice_.runs)
    return found


def follow(slice_: MachineSlice, fleet: Fleet) -> Outcome:
    """Show what its machines print, one after the other."""
    statuses = []
    for number, machine in enumerate(slice_.runs, 1):
        of = f" ({number} of {len(slice_.runs)})" if len(slice_.runs) > 1 else ""
        heading(slice_.outcome.name, slice_.title + of)
        statuses.append(fleet.follow(machine))
    return slice_.finish(statuses)


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and which slices it names."""
    parser = argparse.ArgumentParser(prog="tests/run", description="All tests, or the slices named.")
    names = [*INNER, "lab", *LAB, "installed", *INSTALLED]
    parser.add_argument("slice", nargs="*", metavar="SLICE", help=", ".join(names))
    parser.add_argument("--long", action="store_true", help="the longer campaigns too")
    parser.add_argument("-k", metavar="EXPR", help="only tests that match (as in pytest)")
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, theirs = ours[:at], ours[at + 1 :]
    options = parser.parse_args(ours)
    unknown = [name for name in options.slice if name not in names]
    if unknown:
        parser.error(f"there is no slice {unknown[0]!r}; there are {', '.join(names)}")
    wanted = set(options.slice or names)
    if "lab" in wanted:
        wanted |= set(LAB)
    if "installed" in wanted:
        wanted |= set(INSTALLED)
    options.pytest = (*(["-k", options.k] if options.k else []), *theirs)
    return options, [name for name in (*INNER, *LAB, *INSTALLED) if name in wanted]


def main() -> int:
    """Run what was asked for; zero only if nothing failed."""
    options, wanted = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.long:
        os.environ["DSR_LONG"] = "1"
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="dsr-tests-") as scratch:
        try:
            outcomes.extend(run(wanted, Options(options.long, options.pytest, Path(scratch))))
        except KeyboardInterrupt:
            outcomes.append(Outcome("interrupted", failed=1))
    table(outcomes)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
