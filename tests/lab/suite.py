"""``tests/run``: the tests slice by slice, and a table of how each went."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.machine import images, lanes
from tests.lab.machine.job import NO_RESULT, REPOSITORY, TIMED_OUT, LaneError, say

PROGRAMS = Path(sys.executable).parent
NO_TESTS = 5  # pytest's exit status when it collected nothing
TIMEOUT = 1500  # seconds for the tests of a lane
SLOWER = 2  # under emulation
LONGER = 4  # with --long
ENDINGS = {TIMED_OUT: "the machine's time ran out", NO_RESULT: "no result came back from the machine"}


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    long: bool
    pytest: tuple[str, ...]
    scratch: Path


@dataclass
class Outcome:
    """How a slice went."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def heading(name: str, text: str) -> None:
    """Tell slices apart on the terminal."""
    print(f"\n== {name}: {text}", flush=True)


def marks(options: Options, *words: str) -> list[str]:
    """The pytest option that picks tests by their marks."""
    chosen = [*words] if options.long else [*words, "not long"]
    return ["-m", " and ".join(chosen)] if chosen else []


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


def count(outcome: Outcome, report: Path, status: int) -> None:
    """Add up what pytest reported; an exit status that the report does not explain is a failure."""
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        suites = []
    for suite in suites:
        total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        outcome.failed += bad
        outcome.skipped += skipped
        outcome.passed += max(0, total - bad - skipped)
    if status == NO_TESTS and outcome.failed == 0:
        outcome.notes.append("no tests")
    elif status != 0 and outcome.failed == 0:
        outcome.failed += 1
        outcome.notes.append(ENDINGS.get(status, f"ended with exit status {status} and no report of a failed test"))
    elif status == 0 and not suites:
        outcome.failed += 1
        outcome.notes.append("ended well, but reported nothing")


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
    with child([*argv, *marks(options), *options.pytest]) as process:
        status = process.wait()
    count(outcome, report, status)
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


class MachineRun:
    """The tests in ``tests/lab`` as one job in a lane; started, and later waited for."""

    def __init__(self, name: str, lane: str, options: Options) -> None:
        reference = name == "lab-reference"
        self.outcome = Outcome(name)
        self.start = time.monotonic()
        self.out = options.scratch / name
        self.log = options.scratch / f"{name}.log"
        limit = TIMEOUT * (1 if lane != "qemu" else SLOWER) * (LONGER if options.long else 1)
        argv = [sys.executable, "-m", "tests.lab.machine", "--lane", lane, "--timeout", str(limit)]
        argv += ["--profile", "full" if reference else "lean", "--out", str(self.out)]
        argv += [*(["--env", "DSR_LONG=1"] if options.long else []), "--"]
        argv += ["python3", "-m", "pytest", "-q", "tests/lab", "--junitxml=out/junit.xml"]
        argv += ["--timeout=300" if lane == "qemu" else "--timeout=120"]
        self.argv = [*argv, *marks(options, "reference" if reference else "not reference"), *options.pytest]

    def finish(self, status: int) -> Outcome:
        """Count what came back."""
        count(self.outcome, self.out / "junit.xml", status)
        self.outcome.seconds = time.monotonic() - self.start
        return self.outcome


def follow(process: subprocess.Popen[bytes], log: Path) -> int:
    """Show the log of a process that runs in the background until it ends."""
    with log.open("rb") as file:
        while True:
            ended = process.poll() is not None
            data = file.read()
            if data:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            elif ended:
                return process.wait()
            else:
                time.sleep(0.2)


def fast_lane() -> tuple[str, list[str]]:
    """The lane for the fast tests; if another has to stand in, the summary says so."""
    lane = lanes.choose("auto")
    where = {"qemu": "in qemu", "here": "on this host's own kernel"}.get(lane)
    return lane, [f"{where}, because user-mode Linux cannot be had here"] if where else []


def lab(options: Options, wanted: list[str]) -> Iterator[Outcome]:
    """The tests on real kernels. The slow machine works in the background while the fast one runs."""
    if not any((REPOSITORY / "tests/lab").rglob("test_*.py")):
        yield from (Outcome(name, notes=["no tests"]) for name in wanted)
        return
    start = time.monotonic()
    ready: dict[str, tuple[str, list[str]]] = {}
    for name in wanted:
        try:
            ready[name] = fast_lane() if name == "lab-fast" else (lanes.choose("qemu"), [])
        except LaneError as reason:
            yield Outcome(name, failed=1, seconds=time.monotonic() - start, notes=[f"cannot run: {reason}"])
    with contextlib.ExitStack() as stack:
        background: tuple[MachineRun, subprocess.Popen[bytes]] | None = None
        if set(ready) == set(LAB) and ready["lab-fast"][0] != "qemu":
            say("the reference machine runs in the background meanwhile")
            job = MachineRun("lab-reference", "qemu", options)
            background = job, stack.enter_context(child(job.argv, job.log))
        for name, (lane, notes) in ready.items():
            heading(name, "tests/lab on a Debian 13 machine" if lane == "qemu" else "tests/lab on a real kernel, fast")
            if name == "lab-reference" and background is not None:
                job, process = background
                status = follow(process, job.log)
            else:
                job = MachineRun(name, lane, options)
                with child(job.argv) as process:
                    status = process.wait()
            job.outcome.notes += notes
            yield job.finish(status)


INNER: dict[str, Callable[[Options], Outcome]] = {
    "lint": lint,
    "unit": unit,
    "fake": fake,
    "netns": netns,
    "packages": packages,
}
LAB = ("lab-fast", "lab-reference")
INSTALLED = ("installed-13", "installed-12")


def run(wanted: list[str], options: Options) -> Iterator[Outcome]:
    """Run the slices in order."""
    for name, slice_ in INNER.items():
        if name in wanted:
            heading(name, (slice_.__doc__ or "").splitlines()[0].rstrip("."))
            start = time.monotonic()
            outcome = slice_(options)
            outcome.seconds = time.monotonic() - start
            yield outcome
    machines = [name for name in LAB if name in wanted]
    if machines:
        yield from lab(options, machines)
    if machines := [name for name in INSTALLED if name in wanted]:
        yield from installed(machines, options)


def installed(names: list[str], options: Options) -> Iterator[Outcome]:
    """The package on machines with nothing else."""
    from tests.installed import slice as machines

    try:
        lanes.choose("qemu")
        for name in names:
            images.disk(images.DEBIANS[machines.NAMES[name]])
    except LaneError as reason:
        yield from (Outcome(name, failed=1, notes=[f"cannot run: {reason}"]) for name in names)
        return
    yield from machines.run(names, options)


def table(outcomes: list[Outcome]) -> None:
    """The end of the run: how each slice went, and the one line that sums it up."""
    print(f"\n{'slice':<14} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for outcome in outcomes:
        counts = f"{outcome.passed:>7} {outcome.failed:>7} {outcome.skipped:>8} {outcome.seconds:>8.1f}"
        print(f"{outcome.name:<14} {counts}  {'; '.join(outcome.notes)}".rstrip())
    total = [sum(getattr(outcome, name) for outcome in outcomes) for name in ("passed", "failed", "skipped")]
    print(f"\n{total[0]} passed, {total[1]} failed, {total[2]} skipped", flush=True)


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
