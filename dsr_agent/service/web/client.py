"""Asking the running agent, over its unix socket: about itself, and to drain and hold VIPs."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_PATIENCE = 5.0  # its HTTP has a thread of its own, but a busy host may let nobody run for seconds
_LONGER_PATIENCE = 8.0  # for what has to wait for the loop


class NotAskedError(Exception):
    """The agent cannot be asked, or does not do it; says why."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, patience: float = _PATIENCE) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        """See `http.client.HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def status(path: str, pid: int | None) -> Mapping[str, Any] | None:
    """
    What the agent with process id *pid* says of itself; None if it cannot be asked, or another one answers.

    Agents in other network namespaces may have the same socket in view.
    """
    if pid is None:
        return None
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/status")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    agent = answer.get("agent") if isinstance(answer, dict) else None
    return agent if isinstance(agent, dict) and agent.get("pid") == pid else None


def change(path: str, pid: int, what: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Have the agent with process id *pid* do *what* ("drain", "undrain", "hold", "release"); its answer.

    Raises `NotAskedError`.
    """
    connection = UnixConnection(path, _LONGER_PATIENCE)
    try:
        connection.request("POST", f"/{what}", json.dumps({**asked, "pid": pid}))
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error or "it does not answer"
        if isinstance(error, TimeoutError):
            why = f"it does not answer, and may still {what} when it goes on (then see dsr-agent status)"
        raise NotAskedError(f"the agent (process {pid}) cannot be asked over {path}: {why}") from None
    finally:
        connection.close()
    if response.status != HTTPStatus.OK or not isinstance(answer, dict):
        said = answer.get("error") if isinstance(answer, dict) else None
        raise NotAskedError(f"the agent (process {pid}) refuses: {said or response.reason}")
    return answer
