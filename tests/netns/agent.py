"""``dsr-agent`` as a process, in the namespace that the test is in."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from dsr_agent.cli import main

_PATIENCE = 30.0


class Response(NamedTuple):
    """What a verb came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


def dsr_agent(*arguments: str, config: Path | None = None) -> Response:
    """Run one verb to its end, in this process: starting another one takes longer than the verb."""
    words = [*arguments, *(["--config", str(config)] if config else [])]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Response(code, out.getvalue(), err.getvalue())


def process(*arguments: str, config: Path, prefix: tuple[str, ...] = ()) -> Response:
    """Run one verb to its end, in a process of its own; *prefix* are words before the command."""
    words = [*prefix, sys.executable, "-m", "dsr_agent", *arguments, "--config", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=_environment(config))
    return Response(done.returncode, done.stdout, done.stderr)


def _environment(config: Path) -> dict[str, str]:
    """As in a service, its runtime directory beside the file; nothing of the machine's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DSR_")} | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "RUNTIME_DIRECTORY": str(config.parent),
        "STATE_DIRECTORY": str(config.parent),
    }


class Agent:
    """
    ``dsr-agent run``; a context manager that is entered when the first pass has been made.

    Its log is read line by line, so that tests wait for what is said instead of for a time.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._lines: deque[str] = deque()
        self._said = threading.Condition()
        self._ended = False
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dsr_agent", "run", "--config", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(self._config),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.started = self.says("started: ")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self._lines.append(line.rstrip("\n"))
                self.log.append(line.rstrip("\n"))
                self._said.notify()
        with self._said:
            self._ended = True
            self._said.notify()

    def says(self, text: str) -> str:
        """Wait for the next line with *text* in it."""
        with self._said:
            while True:
                while self._lines:
                    if text in (line := self._lines.popleft()):
                        return line
                heard = self._said.wait_for(lambda: bool(self._lines) or self._ended, _PATIENCE)
                assert heard, f"never said {text!r}, only {self.log}"
                assert self._lines or not self._ended, f"ended without saying {text!r}: {self.log}"

    def says_each(self, *texts: str) -> None:
        """Wait for a line with each of *texts* in it, in whatever order they come."""
        missing = set(texts)
        while missing:
            line = self.says("")
            missing -= {text for text in missing if text in line}

    def after(self, do: Callable[[], object], text: str) -> str:
        """Do something and wait for what the agent says about it."""
        do()
        return self.says(text)

    def serving(self) -> None:
        """Wait for the last things that a start opens: HTTP, over TCP after the unix socket, and then the self-test."""
        end = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 9177)) as asking:
                asking.sendall(b"GET /status HTTP/1.0\r\n\r\n")
                said = b"".join(iter(lambda: asking.recv(1 << 16), b""))  # until it has closed its end, too
                if b"self_test" in said and b"it has not begun yet" not in said:
                    return
            assert time.monotonic() < end, f"HTTP never answered, or there is no self-test: {self.log}"
            time.sleep(0.01)

    def reload(self) -> None:
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(_PATIENCE)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
