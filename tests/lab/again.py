"""
pytest in a machine of the lab; the few tests that fail are tried once more, by themselves, in a new process.

A machine on a busy host may stand still for seconds at any moment. What passes only then is not hidden: why it failed
is printed in full, and the table of ``tests/run`` names it. What is broken fails again.
"""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

FEW = 3  # more that fail are no accident
SOME_FAILED = 1  # pytest's exit status
FIRST, SECOND = Path("out/junit.xml"), Path("out/junit-again.xml")


def failed(report: Path) -> frozenset[str]:
    """The tests that failed, or that could not be set up or cleared away."""
    return frozenset(name for name, well in _cases(report) if not well)


def passed(report: Path) -> frozenset[str]:
    """The tests that were run, and did not fail."""
    return frozenset(name for name, well in _cases(report) if well) - failed(report)


def _cases(report: Path) -> Iterator[tuple[str, bool]]:
    """Each test of a report, and whether it went well. Nothing if there is no report."""
    try:
        cases = list(ET.parse(report).getroot().iter("testcase"))
    except (OSError, ET.ParseError):
        return
    for case in cases:
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
            yield name, not kinds & {"failure", "error"}


def main(limit: float, arguments: list[str]) -> int:
    """The exit status of pytest, which has *limit* seconds for both attempts."""
    end = time.monotonic() + limit
    status = _pytest(limit, FIRST, arguments)
    wrong, left = failed(FIRST), end - time.monotonic()
    if status != SOME_FAILED or not 0 < len(wrong) <= FEW or left <= 0:
        return status
    print(f"tried once more: {', '.join(sorted(wrong))}", flush=True)
    # A share is of all modules, and these are but some.
    rest = [word for word in arguments if not word.startswith("--share")]
    return _pytest(left, SECOND, [*rest, "--last-failed"])


def _pytest(limit: float, report: Path, arguments: list[str]) -> int:
    """*limit* seconds are a session's; in the last of them no test is begun."""
    argv = [sys.executable, "-m", "pytest", "-q", "-o", "cache_dir=out/cache", f"--junitxml={report}"]
    return subprocess.run([*argv, f"--session-timeout={limit:.0f}", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
