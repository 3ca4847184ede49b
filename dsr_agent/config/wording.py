"""How a refusal speaks: what was found, shown on one short line whatever it is, and the closest right word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, time

LONGEST_SHOWN = 60
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
KeyPath = tuple[str | int, ...]


class Refused(ValueError):  # noqa: N818  said as a sentence: raise Refused(...)
    """A value that cannot stand; `str()` says what was found and what to write instead."""


def printable(text: str) -> str:
    """*text* on one line: whatever would move the cursor, or cannot be encoded, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str) -> str:
    """*text* on one line that is never long."""
    return printable(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "...")


def show(value: object) -> str:
    """
    *value* as its writer would recognise it, on one line and never long.

    Tables and lists are only named: they may be of any size and depth.
    """
    if isinstance(value, str):
        return f'"{shortened(value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits.
        return str(value) if abs(value) < 10**20 else "a huge number"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, datetime):
        return f"the date and time {value.isoformat(' ')}"
    if isinstance(value, date):
        return f"the date {value.isoformat()}"
    if isinstance(value, time):
        return f"the time {value.isoformat()}"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "a table"
    return "nothing" if value is None else "something else"


def quoted(words: Iterable[str]) -> str:
    """``"a", "b" or "c"``."""
    *most, last = [f'"{word}"' for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def closest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that *word* is probably a misspelling of; empty if none is near."""
    from difflib import get_close_matches  # noqa: PLC0415  the error path only

    known = list(candidates)
    for candidate in known:
        if candidate == word.lower().replace("-", "_"):
            return candidate
    near = get_close_matches(word[:100], known, n=1)
    return near[0] if near else ""


def key_path(path: KeyPath) -> str:
    """``vip[0].services[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if BARE_KEY.fullmatch(part) and len(part) <= LONGEST_SHOWN else show(part)
            text += f".{key}" if text else key
    return text
