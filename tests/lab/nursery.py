"""
Where the runs of the program under test come from: a process that has imported it once, and forks for each run.

An interpreter that imports the program needs 1.4 s in user-mode Linux and 7.6 s on the Debian machine, and the tests
have some 1,500 runs. From the fork on a run is like any other: namespace, environment and files of its own, and it ends
as an interpreter does. That the program also starts from nothing is shown by ``tests/netns/test_agent`` and
``tests/installed``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from tests.lab.spaces import enter

_ROOM = 1 << 20  # bytes of a request; ten thousand VIPs are in the file, not in here
_DESCRIPTORS = 4


class Child:
    """A run; like `subprocess.Popen`, as far as that is needed."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self._told = told
        self._status: int | None = None

    def poll(self) -> int | None:
        """The exit status, minus the number of the signal that ended it; None while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status once it has ended; `TimeoutError` if it does not in *timeout* seconds."""
        if self._status is None:
            self._told.settimeout(timeout)
            with contextlib.suppress(BlockingIOError):  # what 0 seconds come to
                self._status = int(self._told.recv(32))
                self._told.close()
        if self._status is None:
            raise TimeoutError(f"process {self.pid} has not ended")
        return self._status

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Nursery:
    """Forks runs of ``dsr-agent``; started when it is first asked for one, and ends with its owner."""

    def __init__(self) -> None:
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None  # nobody waits for it, it ends with its owner

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes], errors: IO[bytes]
    ) -> Child:
        """``dsr-agent ARGUMENTS`` in the network namespace of this thread."""
        requests = self._requests = self._requests or self._open()
        told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        space = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        request = json.dumps([list(arguments), dict(environment)]).encode()
        with telling:
            try:
                socket.send_fds(requests, [request], [telling.fileno(), output.fileno(), errors.fileno(), space])
            finally:
                os.close(space)
        return Child(int(told.recv(32)), told)

    def call(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """The same, and what it has said when it has ended."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            child = self.start(arguments, environment, output, errors)
            try:
                status = child.wait(timeout)
            except TimeoutError:
                child.send_signal(signal.SIGKILL)
                raise
            for file in (output, errors):
                file.seek(0)
            return subprocess.CompletedProcess([*arguments], status, output.read().decode(), errors.read().decode())

    def _open(self) -> socket.socket:
        requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        with theirs:
            argv = [sys.executable, "-m", "tests.lab.nursery", str(theirs.fileno())]
            self._process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        return requests


NURSERY = Nursery()


# --- the process itself ----------------------------------------------------------------------------------------------


def _import_all() -> None:
    import dsr_agent

    for found in pkgutil.walk_packages(dsr_agent.__path__, "dsr_agent."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def _serve(requests: socket.socket) -> list[str]:
    """Forks for each request, and tells how each ended; returns in a fork, with the command line of that run."""
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    selector.unregister(key.fileobj)
                    _bury(key.fd, *key.data)
                    continue
                request, descriptors, _, _ = socket.recv_fds(requests, _ROOM, _DESCRIPTORS)
                if not request:
                    os._exit(0)
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    requests.close()
                    return _become(request, *descriptors)
                telling = socket.socket(fileno=descriptors.pop(0))
                for each in descriptors:
                    os.close(each)
                telling.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, telling))


def _bury(pidfd: int, pid: int, telling: socket.socket) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    with telling, contextlib.suppress(OSError):  # nobody may want to know any more
        telling.send(str(status).encode())


def _become(request: bytes, telling: int, output: int, errors: int, space: int) -> list[str]:
    arguments, environment = json.loads(request)
    enter(space)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, max(telling, output, errors, space, *map(int, os.listdir("/proc/self/fd"))) + 1)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


def _main() -> int:
    _import_all()
    from dsr_agent.cli import main

    requests = socket.socket(fileno=int(sys.argv[1]))
    sys.argv[1:] = _serve(requests)
    return main()


if __name__ == "__main__":
    sys.exit(_main())
