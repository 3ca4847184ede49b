"""Asking the running agent about itself, over its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

_PATIENCE = 2.0


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        """See `http.client.HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._path)


def status(path: str, pid: int | None) -> Mapping[str, Any] | None:
    """
    What the agent with process id *pid* says of itself; None if it cannot be asked, or another one answers.

    Agents in other network namespaces may have the same socket in view.
    """
    if pid is None:
        return None
    connection = Connection(path)
    try:
        connection.request("GET", "/status")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    agent = answer.get("agent") if isinstance(answer, dict) else None
    return agent if isinstance(agent, dict) and agent.get("pid") == pid else None
