"""TCP sessions that go on for as long as wanted: a balancer must not cut them."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Self

from tests.lab.agent import DEADLINE, wait_for
from tests.lab.spaces import family_of, tcp_socket
from tests.lab.world import CLIENT

_LENGTH = struct.Struct("=Q")
_PAYLOAD = bytes(range(256)) * 4
_PAUSE = 0.02


class Session:
    """A connection to an `Echo`, with something said and answered all the time until it is closed."""

    def __init__(self, vip: str, port: int) -> None:
        self._socket = tcp_socket(CLIENT, family_of(vip))
        self._socket.settimeout(DEADLINE)
        self._socket.connect((vip, port))
        self._from = self._socket.makefile("rb")
        self.server = self._from.readline().decode().split()[1]
        self.exchanges = 0
        self.trouble = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        while not self._closing.wait(_PAUSE):
            try:
                self._socket.sendall(_LENGTH.pack(len(_PAYLOAD)) + _PAYLOAD)
                back = self._from.read(len(_PAYLOAD))
            except OSError as error:
                self.trouble = str(error)
                return
            if back != _PAYLOAD:
                self.trouble = f"{len(back)} bytes came back"
                return
            self.exchanges += 1

    def wait_exchanges(self, more: int = 3) -> None:
        """Return once *more* has been said and answered."""
        until = self.exchanges + more
        wait_for(lambda: bool(self.trouble) or self.exchanges >= until, "a session to go on")

    def close(self) -> None:
        """End it."""
        self._closing.set()
        self._thread.join(DEADLINE)
        self._from.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def sessions(vip: str, port: int, count: int) -> Iterator[list[Session]]:
    """So many at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Session(vip, port)) for _ in range(count)]


def uncut(found: Sequence[Session]) -> bool:
    """Whether all of them still go on."""
    for session in found:
        session.wait_exchanges()
    return not any(session.trouble for session in found)
