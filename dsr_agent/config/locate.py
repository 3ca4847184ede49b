"""On which line of a TOML text a key stands. For the error path only: it costs about as much as parsing again."""

from __future__ import annotations

import tomllib
from typing import Any

from dsr_agent.config.wording import KeyPath

DEEPEST = 8  # nothing of ours is nested deeper
_CLOSING = ("]", "}", '"""', "'''")


def lines_of(text: str) -> dict[KeyPath, int]:
    """
    The line on which each key and each table of a valid *text* begins.

    The parser itself says where a statement ends: it is the shortest run of whole lines that is valid TOML. What is
    inside of a value has no line of its own (its key has). Gives up on the rest of a text that would cost too much.
    """
    found: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    budget = 20 * len(text) + 100_000
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            start = number
        statement += line + "\n"
        # A value over several lines ends on a line with a closing mark: elsewhere, trying would be a waste.
        if start != number and not any(mark in line for mark in _CLOSING):
            continue
        budget -= len(statement)
        if budget < 0:
            break
        try:
            said = tomllib.loads(statement)
        except (ValueError, RecursionError):
            continue
        header = statement.lstrip().startswith("[")
        statement = ""
        if header:
            table = _enter(said, counts)
            found.setdefault(table, start)
            if isinstance(table[-1], int):
                found.setdefault(table[:-1], start)  # an array of tables begins with its first
        else:
            _note(said, table, start, found)
    return found


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The line of *path*, or of the nearest thing around it that has one; 0 if none has."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 0


def _enter(said: dict[str, Any], counts: dict[KeyPath, int]) -> KeyPath:
    """The path of the table that a header opens; *counts* holds how many of each array of tables there are."""
    path: KeyPath = ()
    inner: Any = said
    while isinstance(inner, dict) and inner and len(path) < DEEPEST:
        key, inner = next(iter(inner.items()))
        path += (key,)
        if isinstance(inner, list):
            counts[path] = counts.get(path, 0) + 1
            return (*path, counts[path] - 1)
        if path in counts and inner:
            path += (counts[path] - 1,)
    return path


def _note(said: dict[str, Any], table: KeyPath, line: int, found: dict[KeyPath, int]) -> None:
    path = table
    inner: Any = said
    while isinstance(inner, dict) and len(inner) == 1 and len(path) < DEEPEST:
        key, inner = next(iter(inner.items()))
        path += (key,)
        found.setdefault(path, line)
