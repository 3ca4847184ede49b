"""Where a value was written: file and line, or environment variable, and the key path there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsr_agent.config.environment import Environment
from dsr_agent.config.files import File
from dsr_agent.config.locate import line_of, lines_of
from dsr_agent.config.wording import KeyPath, key_path, show


@dataclass(frozen=True, order=True)
class Place:
    """A key path in a source; sorts as an operator would read: source by source, line by line."""

    rank: int
    line: int
    path: KeyPath = field(compare=False)
    source: str = field(compare=False)
    name: str = field(compare=False, default="")

    def __str__(self) -> str:
        """``/etc/dsr-agent.toml:7: vip[0].address (of "radius")``."""
        line = f":{self.line}" if self.line else ""
        name = f" (of {show(self.name)})" if self.name else ""
        return f"{self.source}{line}: {key_path(self.path)}{name}"

    def seen_from(self, other: Place) -> str:
        """This place as *other* would point at it."""
        path = key_path(self.path)
        if self.source == other.source:
            return f"{path} on line {self.line}" if self.line else path
        return f"{path} of {self.source}" + (f":{self.line}" if self.line else "")


class Origins:
    """
    Where each value of the merged settings came from.

    *lists* are the entries of ``tunnel`` and ``vip`` as they were merged: from which file, and which one there.
    """

    def __init__(
        self,
        files: list[File],
        environment: Environment,
        from_environment: Mapping[str, Any],
        lists: Mapping[str, list[tuple[File, int]]],
    ) -> None:
        self._files = files
        self._environment = environment
        self._from_environment = from_environment
        self._lists = lists
        self._lines: dict[int, dict[KeyPath, int]] = {}

    def place(self, path: KeyPath, *, lines: bool = True) -> Place:
        """Where the value at *path* of the merged settings was written; without *lines* nothing is read again."""
        name = self._environment.variable_for(path, self._from_environment)
        if name:
            called = _name(self._from_environment, path)
            return Place(len(self._files), 0, path, f"environment {name}", called)
        file = self._files[0]
        entries = self._lists.get(str(path[0]), [])
        if len(path) > 1 and isinstance(path[1], int) and path[1] < len(entries):
            file, index = entries[path[1]]
            path = (path[0], index, *path[2:])
        return self.place_in(file, path, lines=lines)

    def place_in(self, file: File, path: KeyPath, *, lines: bool = True) -> Place:
        """Where *path* of *file* is."""
        rank = self._files.index(file)
        line = 0
        if lines:
            if rank not in self._lines:
                self._lines[rank] = lines_of(file.text)
            line = line_of(path, self._lines[rank])
        return Place(rank, line, path, str(file), _name(file.data, path))


def _name(data: Mapping[str, Any], path: KeyPath) -> str:
    """What the entry that *path* is in calls itself."""
    entry = data.get(str(path[0]))
    if len(path) < 2 or not isinstance(path[1], int) or not isinstance(entry, list) or path[1] >= len(entry):
        return ""
    name = entry[path[1]].get("name", "") if isinstance(entry[path[1]], dict) else ""
    return name if isinstance(name, str) and path[2:] != ("name",) else ""
