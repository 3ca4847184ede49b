"""What systemd hears without systemd-python, and when the watchdog is petted."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsr_agent.service.notify import Notifier


class Ear:
    """Somebody who listens."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path)}

    def heard(self) -> list[str]:
        """Everything so far."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    """A notification socket."""
    found = Ear(tmp_path / "notify")
    yield found
    found.close()


def test_a_status_is_sent_when_it_is_another_one(ear: Ear) -> None:
    notifier = Notifier(ear.environ)
    notifier.ready("in sync")
    notifier.status("in sync")
    notifier.status("not in sync")
    notifier.status("not in sync")
    assert ear.heard() == ["READY=1\nSTATUS=in sync", "STATUS=not in sync"]


def test_the_watchdog_is_petted_at_least_twice_in_its_time_and_not_at_every_turn(ear: Ear) -> None:
    now = [0.0]
    notifier = Notifier({**ear.environ, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, lambda: now[0])
    assert notifier.beat == 7.5
    petted = []
    for tenth in range(1, 600):
        now[0] = tenth / 10
        notifier.turned()
        if ear.heard() == ["WATCHDOG=1"]:
            petted.append(now[0])
    gaps = [later - earlier for earlier, later in zip([0.0, *petted], petted, strict=False)]
    assert max(gaps) <= 15.0
    assert len(petted) < 10


def test_a_turn_every_beat_is_enough(ear: Ear) -> None:
    now = [0.0]
    notifier = Notifier({**ear.environ, "WATCHDOG_USEC": "4000000"}, lambda: now[0])
    assert notifier.beat == 1.0
    last, worst = 0.0, 0.0
    for turn in range(1, 50):
        now[0] = turn * 1.0 - 0.001 * (turn % 2)  # a turn may come a little early
        notifier.turned()
        if ear.heard():
            worst, last = max(worst, now[0] - last), now[0]
    assert worst <= 2.0


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog_of_ours(ear: Ear, environ: dict[str, str]) -> None:
    notifier = Notifier({**ear.environ, **environ}, lambda: 1e9)
    notifier.turned()
    assert notifier.beat is None
    assert ear.heard() == []


def test_a_reload_says_when_it_began(ear: Ear) -> None:
    Notifier(ear.environ).reloading()
    [text] = ear.heard()
    assert text.startswith("RELOADING=1\nMONOTONIC_USEC=")


@pytest.mark.parametrize("place", ["", "/nobody/listens/here", "@nobody-listens-here-either", "relative"])
def test_nobody_who_listens_is_no_trouble(place: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": place})
    notifier.ready("fine")
    notifier.stopping()


def test_a_listener_who_is_full_is_not_waited_for(ear: Ear) -> None:
    notifier = Notifier(ear.environ)
    for number in range(5000):
        notifier.status(f"{number} {'x' * 1000}")
