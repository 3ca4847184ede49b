"""A test that fails in a machine is tried once more, is named if it passes then, and fails if it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.again import FIRST, SECOND
from tests.lab.machine.job import REPOSITORY
from tests.lab.outcome import Outcome

WELL = "def test_well(): pass\n"
ONCE = """
def test_once():
    from pathlib import Path
    mark = Path("tried")
    if not mark.exists():
        mark.touch()
        raise AssertionError("starved")
"""
NEVER = "def test_never(): raise AssertionError('broken')\n"


def tried(folder: Path, *tests: str) -> tuple[Outcome, str]:
    """What ``tests/run`` would count of these tests, and what was printed."""
    folder.joinpath("out").mkdir()
    folder.joinpath("test_some.py").write_text("".join(tests))
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.again", "600", "test_some.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    outcome = Outcome("lab")
    outcome.count(folder / FIRST, done.returncode, folder / SECOND)
    return outcome, done.stdout


def test_what_passes_only_then_is_told(tmp_path: Path) -> None:
    outcome, printed = tried(tmp_path, WELL, ONCE)
    assert (outcome.passed, outcome.failed) == (2, 0)
    assert outcome.notes == ["passed only when tried again: test_some::test_once"]
    assert "AssertionError: starved" in printed


@pytest.mark.parametrize("beside", [(), (ONCE,)])
def test_what_is_broken_fails(tmp_path: Path, beside: tuple[str, ...]) -> None:
    outcome, printed = tried(tmp_path, WELL, *beside, NEVER)
    assert outcome.failed == 1 + len(beside)
    assert printed.count("AssertionError: broken") > 1, "tried twice"


def test_many_are_no_accident(tmp_path: Path) -> None:
    outcome, _ = tried(tmp_path, WELL, ONCE, *(NEVER.replace("never", f"never{number}") for number in range(3)))
    assert (outcome.passed, outcome.failed) == (1, 4)
    assert not (tmp_path / SECOND).exists()


def test_nothing_is_tried_again_where_all_went_well(tmp_path: Path) -> None:
    outcome, _ = tried(tmp_path, WELL)
    assert (outcome.passed, outcome.failed, outcome.notes) == (1, 0, [])
    assert not (tmp_path / SECOND).exists()
