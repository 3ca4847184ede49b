"""The program itself, in the test's namespace, with somebody who listens to its notifications."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from dsr_agent.kernel import monitor, netlink
from tests.lab.nursery import NURSERY, Child

DEADLINE = 30.0
PORT = 9177


class Response(NamedTuple):
    """What HTTP said."""

    status: int
    headers: Mapping[str, str]
    body: str

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    def sample(self, series: str) -> float:
        """The value of one series of ``/metrics``."""
        for line in self.body.splitlines():
            name, _, value = line.rpartition(" ")
            if name == series:
                return float(value)
        raise AssertionError(f"there is no {series} in:\n{self.body[:3000]}")


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self._path)


def ask(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str) -> Response:
    """One request on a connection of its own."""
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Response(answer.status, dict(answer.getheaders()), answer.read().decode("utf-8", "replace"))
    finally:
        connection.close()


def get(path: str, host: str = "127.0.0.1", port: int = PORT) -> Response:
    """Ask over TCP."""
    return ask(http.client.HTTPConnection(host, port, timeout=DEADLINE), path)


class Agent:
    """``dsr-agent run`` and its notifications; a context manager that has waited for READY=1."""

    def __init__(self, folder: Path, config: str, *, abstract: bool = False, **environ: str) -> None:
        self.folder = folder
        self.file = folder / "dsr-agent.toml"
        self.file.write_text(config)
        self.log_file = folder / "log"
        self._place = f"@{folder}" if abstract else str(folder / "notify")
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind("\0" + str(folder) if abstract else self._place)
        self._ear.settimeout(DEADLINE)
        self._environ = environ
        self.process: subprocess.Popen[bytes] | Child | None = None
        self.heard: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """As systemd would set it."""
        repository = str(Path(__file__).resolve().parents[2])
        own = {"NOTIFY_SOCKET": self._place, "RUNTIME_DIRECTORY": str(self.folder), "PYTHONPATH": repository}
        own["STATE_DIRECTORY"] = str(self.folder)
        return {**os.environ, **own, **self._environ}

    def start(self) -> None:
        """Start it, and wait for nothing."""
        with self.log_file.open("ab") as log:
            argv = ["run", "--config", str(self.file)]
            if "PYTHONPATH" in self._environ:  # it is to import something else, so it cannot have imported anything
                words = [sys.executable, "-m", "dsr_agent", *argv]
                self.process = subprocess.Popen(
                    words, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            else:
                self.process = NURSERY.start(argv, self.environment, log, log)

    def __enter__(self) -> Self:
        self.start()
        self.hear("READY=1")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kind else signal.SIGTERM)
        if self.process:
            self.process.wait(DEADLINE)
        self._ear.close()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def hear(self, word: str) -> str:
        """Wait for a notification with *word* in it."""
        while True:
            try:
                text = self._ear.recv(1 << 16).decode()
            except TimeoutError:
                raise AssertionError(f"never heard {word}; heard {self.heard}; its log:\n{self.log()}") from None
            self.heard.append(text)
            if word in text:
                return text

    def hears_nothing(self, word: str, seconds: float) -> bool:
        """Whether no notification with *word* comes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._ear], [], [], left)[0] and word in self._ear.recv(1 << 16).decode():
                return False
        return True

    def log(self) -> str:
        """All it has said."""
        return self.log_file.read_text()

    def until(self, condition: Any, what: str) -> None:
        """Wait for what is announced to nobody: a door that opens, a line in the log."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            assert time.monotonic() < end, f"{what}: never; its log:\n{self.log()}"
            assert self.process
            assert self.process.poll() is None, f"it has ended:\n{self.log()}"
            time.sleep(0.01)

    def serving(self, port: int = PORT, host: str = "127.0.0.1") -> None:
        """Wait until HTTP is to be had, which comes after the data plane."""
        self.until(lambda: get("/livez", host, port), "HTTP")

    def unix(self, path: str, method: str = "GET") -> Response:
        """Ask over the unix socket."""
        return ask(_Unix(str(self.folder / "http.sock")), path, method)

    def reload(self, config: str) -> None:
        """Another file, SIGHUP, and READY=1 again."""
        self.file.write_text(config)
        assert self.process
        self.process.send_signal(signal.SIGHUP)
        self.hear("RELOADING=1")
        self.hear("READY=1")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another verb with the same file."""
        return NURSERY.call([*arguments, "--config", str(self.file)], self.environment, DEADLINE)


class Watcher:
    """Hears addresses come back: how long a repair takes as the outside sees it."""

    def __init__(self) -> None:
        self._monitor = monitor.Monitor()
        self._channel = netlink.Channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.close()
        self._channel.close()

    def repair(self, address: str) -> float:
        """Delete *address* from lo; the seconds from asking the kernel for that until it is back."""
        for _ in self._monitor.drain(4096, lambda: None):
            pass
        packed = socket.inet_aton(address)
        body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, socket.if_nametoindex("lo"))
        body += netlink.attribute(2, packed)  # IFA_LOCAL
        started = time.monotonic()
        assert self._channel.request([(netlink.RTM_DELADDR, 0, body)]) == [None]
        end = started + DEADLINE
        gone = False
        while time.monotonic() < end:
            select.select([self._monitor], [], [], DEADLINE)
            for message in self._monitor.drain(4096, lambda: None):
                if packed in message.body:
                    if gone and message.type == netlink.RTM_NEWADDR:
                        return time.monotonic() - started
                    gone |= message.type == netlink.RTM_DELADDR
        raise AssertionError(f"{address} never came back")


def vips(count: int) -> str:
    """A file with so many VIPs, 10.200.0.0 and on."""
    return "".join(f'[[vip]]\naddress = "{address}"\n' for address in addresses(count))


def addresses(count: int) -> Iterable[str]:
    """The VIPs of `vips`."""
    return (f"10.{200 + number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(count))
