"""
The plan, case by case: a folder of `cases/` is the user's file, the host as it was found, and what the plan says.

``observed.txt`` is a machine in the words of `tests.fake.words`, ``plan.txt`` what ``dsr-agent plan`` prints. A bug
report becomes a folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr_agent import printing
from dsr_agent.config import load
from dsr_agent.reconcile.loop import apply_once, plan_now
from dsr_agent.state.errors import Foreign
from dsr_agent.state.model import Desired
from tests.fake.clock import FakeClock
from tests.fake.kernel import FakeKernel
from tests.fake.story import NO_GUARD

CASES = sorted(Path(__file__).parent.joinpath("cases").iterdir())


def case(folder: Path) -> tuple[Desired, FakeKernel, str]:
    """The three files of *folder*."""
    path = folder / "desired.toml"
    desired = load(path, environ={} if "[guard]" in path.read_text() else NO_GUARD).desired
    return desired, FakeKernel((folder / "observed.txt").read_text()), (folder / "plan.txt").read_text()


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
async def test_the_plan_is_what_the_case_says(folder: Path) -> None:
    """Step by step, with the reasons, and what cannot be had."""
    desired, kernel, expected = case(folder)

    todo, _ = await plan_now(kernel, desired)

    assert printing.plan(todo) + "\n" == expected


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
async def test_applying_it_leaves_nothing_but_what_cannot_be_had(folder: Path) -> None:
    """The same problems as before, and no steps."""
    desired, kernel, _ = case(folder)
    before, _ = await plan_now(kernel, desired)

    report = await apply_once(kernel, desired, FakeClock())

    assert report.remaining.actions == ()
    assert report.remaining.problems == before.problems
    assert not [outcome for outcome in report.outcomes if isinstance(outcome.error, Foreign)]


def test_every_case_says_what_it_is_about() -> None:
    """Its name does, or the first line of its file."""
    assert len(CASES) >= 25
    assert all(folder.name.count("-") or (folder / "desired.toml").read_text().startswith("#") for folder in CASES)
