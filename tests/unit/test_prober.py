"""The sockets of the self-test, over made-up ones."""

from __future__ import annotations

import socket

import pytest

from dsr_agent.kernel import probe
from dsr_agent.kernel.probe import Prober


class Opened:
    """A socket that is open until it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_of_a_vrf_that_is_made_again_the_old_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Opened] = []
    index = 7

    def raw(version: int, vrf: str) -> Opened:
        opened.append(Opened())
        return opened[-1]

    monkeypatch.setattr(probe, "_raw", raw)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: index)
    prober = Prober()
    first = prober._sender(4, "blue")
    assert prober._sender(4, "blue") is first
    index = 8
    second = prober._sender(4, "blue")
    assert [each.closed for each in opened] == [False, True, False]
    assert prober._sender(4, "blue") is second
    prober.close()
    assert all(each.closed for each in opened)
