"""What checks share with those they ask: from the file itself, or from a file that it names."""

from __future__ import annotations

import os
from typing import Protocol

from dsr_agent.service.checks.asking import CannotAskError

_LONGEST = 128


class Hidden(Protocol):
    """Text that does not show itself."""

    def get_secret_value(self) -> str:
        """Show it."""


def reveal(key: str, said: Hidden | None, path: str | None) -> bytes:
    """
    The secret. A file is read each time, so that a new one counts at once; the end of its last line is not part of it.

    Raises `CannotAskError`.
    """
    if said is not None:
        return said.get_secret_value().encode()
    if path is None:
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            found = file.read(_LONGEST + 3)
    except OSError as error:
        raise CannotAskError(f"{key}_file {path} cannot be read by the agent: {error.strerror}") from None
    found = found.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(found) <= _LONGEST:
        raise CannotAskError(f"{key}_file {path} is {'empty' if not found else 'longer than 128 bytes'}")
    return found
