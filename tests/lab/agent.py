"""The program under test, in a real server's namespace."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.lab.nursery import NURSERY, Child
from tests.lab.spaces import inside
from tests.lab.world import BALANCER_IP

# Generous: a real server under emulation needs ten times what user-mode Linux does.
# Shorter than the time that a test has, so that what the agent has said is shown.
DEADLINE = 100.0


def tunnel(encapsulation: str, **values: object) -> str:
    """A ``[[tunnel]]`` of the file."""
    values = {"encapsulation": encapsulation, "load_balancers": [BALANCER_IP], **values}
    return "\n".join(["[[tunnel]]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def vip(address: str, **values: object) -> str:
    """A ``[[vip]]`` of the file."""
    values = {"address": address, **values}
    return "\n".join(["[[vip]]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def agent_settings(**values: object) -> str:
    """The ``[agent]`` of the file."""
    return "\n".join(["[agent]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def wait_for(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> float:
    """Seconds until *condition* holds; `TimeoutError` with *what* was waited for."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        if waited > deadline:
            raise TimeoutError(f"{what}: not within {deadline:.0f} s")
        # Looking is work that the machine under test has to do, too: a tenth of what it takes is soon enough.
        time.sleep(min(max(waited / 10, 0.002), 0.1))
    return time.monotonic() - started


@functools.cache
def has_inet_tables() -> bool:
    """Whether this kernel has what the guard is made of; user-mode Linux has not."""
    table = "add table inet dsr_lab_probe\ndelete table inet dsr_lab_probe\n"
    return subprocess.run(["nft", "-f", "-"], input=table, text=True, capture_output=True, check=False).returncode == 0


class Agent:
    """
    One ``dsr-agent``, its file and its log. A context manager that runs it.

    Behind a *wrapper* (a command line) it is a Python interpreter of its own, otherwise a fork of one.
    """

    def __init__(self, space: str, config: str, *, wrapper: Sequence[str] = ()) -> None:
        self.space = space
        self._wrapper = tuple(wrapper)
        self._folder = tempfile.TemporaryDirectory(prefix=f"agent-{space}-")
        Path(self._folder.name).chmod(0o755)
        self.file = Path(self._folder.name, "dsr-agent.toml")
        self._log = Path(self._folder.name, "log")
        self._log.touch()
        self.process: subprocess.Popen[bytes] | Child | None = None
        self.write(config)

    def write(self, config: str) -> None:
        """Another text for its file."""
        self.file.write_text(config)

    # --- run ---------------------------------------------------------------------------------------------------------

    def start(self, wait: bool = True) -> None:
        """``dsr-agent run``; returns when its first pass is done."""
        mark = self.mark()
        with inside(self.space), self._log.open("ab") as log:
            if self._wrapper:
                self.process = subprocess.Popen(
                    self._wrapped("run"), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment()
                )
            else:
                self.process = NURSERY.start(self._arguments("run"), self._environment(), log, log)
        if wait:
            self.wait_log("started: ", mark)

    def settle(self) -> None:
        """Return once it has been idle for a moment: it prepares for repairs after its first pass. It may never be."""
        began, used, idle = time.monotonic(), self._work(), 0
        while idle < 10 and time.monotonic() - began < DEADLINE:  # looks: a machine that stands still is not idle
            time.sleep(0.02)
            now = self._work()
            idle = idle + 1 if now == used and all(state == "S" for state, _ in now) else 0
            used = now

    def _work(self) -> list[tuple[str, str]]:
        """What each of its threads is doing, and how much it has done; one that waits for a processor is at work."""
        assert self.process
        found = []
        for task in sorted(Path(f"/proc/{self.process.pid}/task").iterdir()):
            with contextlib.suppress(OSError):  # a thread that has just ended
                words = (task / "stat").read_text().rsplit(")", 1)[1].split()
                found.append((words[0], " ".join(words[11:13])))
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def reload(self, config: str | None = None, expect: str = "read the file again: ") -> str:
        """Another file, SIGHUP, and what the log says to it."""
        mark = self.mark()
        if config is not None:
            self.write(config)
        assert self.process
        self.process.send_signal(signal.SIGHUP)
        return self.wait_log(expect, mark)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it if it runs, and forget its file."""
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.stop()
        self._folder.cleanup()

    # --- its log -----------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """All it has said."""
        return self._log.read_text()

    def mark(self) -> int:
        """This moment in its log."""
        return self._log.stat().st_size

    def said(self, mark: int) -> str:
        """What it has said since *mark*."""
        with self._log.open("rb") as log:
            log.seek(mark)
            return log.read().decode()

    def wait_log(self, text: str, mark: int = 0) -> str:
        """The first line with *text* since *mark*, once it is there."""

        def there() -> bool:
            running = self.running  # its last words are there when it has ended
            if text in self.said(mark):
                return True
            if not running:
                raise RuntimeError(f"the agent ended before it said {text!r}:\n{self.said(mark)}")
            return False

        try:
            wait_for(there, f"the agent's word {text!r}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it said:\n{self.said(mark)}") from None
        return next(line for line in self.said(mark).splitlines() if text in line)

    # --- other verbs -------------------------------------------------------------------------------------------------

    def _arguments(self, verb: str, *options: str) -> list[str]:
        return [verb, "--config", str(self.file), *options]

    def _wrapped(self, verb: str, *options: str) -> list[str]:
        return [*self._wrapper, sys.executable, "-m", "dsr_agent", *self._arguments(verb, *options)]

    def _environment(self) -> dict[str, str]:
        """Two agents in two namespaces still see the same files: each has directories of its own."""
        guard = {} if has_inet_tables() else {"DSR_AGENT_GUARD__ENABLED": "false"}
        own = self._folder.name
        return {**os.environ, **guard, "RUNTIME_DIRECTORY": own, "STATE_DIRECTORY": own}

    def call(self, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        """``dsr-agent VERB`` in the same namespace with the same file."""
        with inside(self.space):
            if not self._wrapper:
                return NURSERY.call(self._arguments(verb, *options), self._environment(), DEADLINE)
            return subprocess.run(
                self._wrapped(verb, *options),
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE,
                env=self._environment(),
            )

    def says(self) -> dict[str, Any]:
        """What the running agent says of itself in ``status``: it does so some time after its first pass."""
        said: dict[str, Any] = {}

        def answered() -> bool:
            said.update(self.status()["agent"])
            return "fights" in said

        wait_for(answered, "the agent to say how it is")
        return said

    def status(self) -> dict[str, Any]:
        """``dsr-agent status --json``."""
        answer: dict[str, Any] = json.loads(self.call("status", "--json").stdout)
        return answer
