"""
One agent at a time in a network namespace: two would undo each other.

The lock is a socket in the abstract namespace, which the kernel keeps apart for each network namespace, and which is
gone the moment its process is, however that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import struct

_NAME = b"\0dsr-agent"
_QUEUE = 64


def running() -> int | None:
    """The process id of the agent that runs in this network namespace, if there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)  # whoever holds the name need not listen
        try:
            asking.connect(_NAME)
        except OSError:
            return None
        pid, uid, _ = struct.unpack("iii", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid(), _service_user()):
        return None  # anybody can take a name; only an agent's word counts
    return int(pid)


def _service_user() -> int:
    """The user that the service runs as, where there is one."""
    try:
        return pwd.getpwnam("dsr-agent").pw_uid
    except KeyError:
        return 0


class Instance:
    """
    Being the agent of this network namespace; `taken` is the process id of another one, if there is.

    Made and closed in an event loop, which turns away whoever asks: the kernel has answered them already, and those
    that nobody turns away fill the queue.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.taken: int | None = None
        try:
            self._socket.bind(_NAME)
            self._socket.listen(_QUEUE)
        except OSError:
            self.taken = running()
            return
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._turn_away)

    def close(self) -> None:
        """Give the place up."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _turn_away(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
