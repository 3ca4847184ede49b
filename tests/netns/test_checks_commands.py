"""Commands that ask in the agent's place: what they are told, how they end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.truth.checks import FailureReason
from tests.netns.applications import (
    addressed,
    asked,
)


@pytest.fixture(autouse=True)
def addresses(space: None) -> None:
    addressed()


def script(folder: Path, text: str) -> list[str]:
    """A command."""
    file = folder / "ask.py"
    file.write_text(f"#!{sys.executable} -I\nimport os, sys, time\n{text}\n")
    file.chmod(0o755)
    return [str(file), "{vip}", "{service}"]


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        ("assert sys.argv[1:] == ['192.0.2.10', 'udp/53']", None, ""),
        ("assert os.environ['DSR_VIP'] == '192.0.2.10' and os.environ['DSR_SERVICE'] == 'udp/53'", None, ""),
        ("assert 'DSR_AGENT_X' not in os.environ", None, ""),
        ("print(); print('  no zone  '); print('more'); sys.exit(1)", FailureReason.COMMAND, "no zone"),
        ("print('on stderr', file=sys.stderr); sys.exit(9)", FailureReason.COMMAND, "on stderr"),
        ("print('a\\x1b[2Jb' + 'c' * 1000); sys.exit(1)", FailureReason.COMMAND, "a\\x1b[2Jb" + "c" * 194),
        ("sys.exit(3)", FailureReason.COMMAND, "ask.py ended with exit code 3"),
        ("os.kill(os.getpid(), 15)", FailureReason.COMMAND, "ask.py was killed by signal 15"),
        ("print('x' * 10_000_000); sys.exit(0)", None, ""),
    ],
)
async def test_a_command(tmp_path: Path, monkeypatch: Any, text: str, reason: FailureReason | None, said: str) -> None:
    monkeypatch.setenv("DSR_AGENT_X", "secret")
    found = await asked("command", command=script(tmp_path, text), service="udp/53")
    assert found.reason is reason, found.text
    assert found.text.endswith(said)


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """The pipe ends when the last of them has gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = f"os.open({str(pipe)!r}, os.O_WRONLY); os.fork(); os.fork(); time.sleep(600)"
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = await asked("command", command=script(tmp_path, held), timeout=2.0)
        os.set_blocking(reader, True)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)
    assert (found.reason, found.text) == (FailureReason.TIMEOUT, f"{tmp_path}/ask.py did not end within 2 s")


async def test_a_command_that_ends_leaves_no_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    left = f"os.open({str(pipe)!r}, os.O_WRONLY)\nif not os.fork(): time.sleep(600)"
    try:
        assert (await asked("command", command=script(tmp_path, left))).reason is None
        os.set_blocking(reader, True)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)


async def test_a_command_that_is_not_there_says_nothing_about_the_vip() -> None:
    found = await asked("command", command=["/no/such/program"])
    assert (found.reason, found.text) == (
        FailureReason.ERROR,
        "/no/such/program cannot be started: No such file or directory",
    )
