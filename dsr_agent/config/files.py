"""Reading the file and its drop-ins: only regular files, only so much of them, and never waiting."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsr_agent.config.wording import Refused, printable, shortened
from dsr_agent.state.errors import ConfigError

LARGEST = 16 * 1024 * 1024
DROP_IN_SUFFIX = ".toml"


@dataclass(frozen=True)
class File:
    """One file that could be read: its text, and what that says."""

    path: Path
    text: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    drop_in: bool = False

    def __str__(self) -> str:
        return printable(os.fsencode(self.path).decode(errors="backslashreplace"))


def read(path: Path, *, drop_in: bool = False) -> File:
    """
    The file at *path*, parsed.

    :raises ConfigError: one refusal, naming the file
    """
    shown = File(path, "", {})
    try:
        text = _text(path)
        return File(path, text, _parse(text), drop_in)
    except Refused as refused:
        raise ConfigError((f"{shown}{refused}",)) from None
    except OSError as error:
        raise ConfigError((f"{shown}: {_why(path, error)}",)) from None


def drop_ins(path: Path) -> list[Path]:
    """
    The drop-ins of *path*, in the order of their names: ``X.d/*.toml`` for ``X.toml``, hidden ones left out.

    :raises ConfigError: the directory is there and cannot be listed
    """
    if not path.name:  # "/" and ".", which are refused as directories
        return []
    directory = path.with_name(path.stem + ".d")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        why = "is not a directory" if isinstance(error, NotADirectoryError) else f"cannot be listed ({error.strerror})"
        raise ConfigError((f"{File(directory, '', {})}: {why}, and it is where drop-ins are looked for",)) from None
    wanted = sorted(name for name in names if name.endswith(DROP_IN_SUFFIX) and not name.startswith("."))
    return [directory / name for name in wanted]


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        try:
            target = printable(os.fsencode(os.readlink(path)).decode(errors="backslashreplace"))
            return f"is a symbolic link to {target}, which does not exist"
        except OSError:  # it is no link, or is gone by now
            pass
        return "there is no such file: write one, or name another with --config"
    if isinstance(error, PermissionError):
        return f"may not be read by user id {os.geteuid()}: make it readable (chmod, chgrp)"
    return f"cannot be read: {error.strerror or error}"


def _text(path: Path) -> str:
    # Looked at before it is opened, because opening alone can wait (a FIFO) or do something (a tape); and again
    # after, because it may have been replaced in between.
    _check(os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as opened:
        _check(os.fstat(descriptor))
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Refused(f": is larger than {LARGEST // 1024**2} MiB, which cannot be meant: nothing was read")
    try:
        # A byte order mark is what some editors put in front of UTF-8; TOML itself has no place for it.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Refused(f":{line}: is not UTF-8 text (byte 0x{content[error.start]:02x}): save it as UTF-8") from None


def _check(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise Refused(": is a directory: name a file")
    if not stat.S_ISREG(status.st_mode):
        raise Refused(": is not a regular file (a pipe, socket or device): name a regular file")
    if status.st_size > LARGEST:
        raise Refused(f": is larger than {LARGEST // 1024**2} MiB, which cannot be meant: nothing was read")


# --- what TOML has to say -----------------------------------------------------------------------------------------

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# How the parser begins its sentences, and what we say instead; what is not here is passed on.
_INSTEAD = (
    ("Cannot overwrite a value", "this key is there already: keep one of them"),
    ("Cannot mutate immutable namespace", "this was given a value already: keep one of them"),
    ("Cannot redefine namespace", "this was given a value already: keep one of them"),
    ("Duplicate inline table key", "this key is there already: keep one of them"),
    ("Invalid value", 'a value is "text" in quotes, a number, true, false or a [list]'),
    ("Invalid statement", 'write key = value, [table] or [[table]]; a comment starts with "#"'),
    ("Invalid initial character for a key part", "a key is made of letters, digits, _ and -"),
    ("Expected '='", "write key = value"),
    ("Expected newline or end of document", "more after the value: text stands in quotes, one key to a line"),
    ("Expected ']", "a closing bracket is missing"),
    ("Expected", "a closing quote is missing"),
    ("Unterminated string", "a closing quote is missing"),
    ("Illegal character", "a quote is not closed on its line, or a character that cannot stand here"),
    ("Invalid date or datetime", "no such date: text stands in quotes"),
    ("Invalid hex value", "\\x, \\u and \\U want 2, 4 and 8 hexadecimal digits: or put the text in 'single quotes'"),
    ("Escaped character is not", "no such character"),
    ("Found invalid character", "a character that cannot stand here"),
    ("Unclosed array", "a closing ] or a comma is missing"),
    ("Unclosed inline table", "a closing } or a comma is missing"),
    ("Unescaped '\\' in a string", "write \\\\ for a backslash, or put the text in 'single quotes'"),
)
_TABLE_AGAIN = (
    "this is there already: [agent] and [http] are written once, [[tunnel]], [[vip]] and [[check]] with two brackets "
    "each time"
)
# What may follow is not for the log.
_SECRET = re.compile(r"""(["']?(?:secret|password)\b["']?\s*[:=]?).*""", re.IGNORECASE)
_HIDDEN = r"\1 (not shown)"
_BARE = re.compile(r"([A-Za-z_]+)\s*=\s*([A-Za-z0-9][A-Za-z0-9.:/-]*)")


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(_syntax(text, str(error))) from None
    except RecursionError:
        raise Refused(": is nested too deeply: a file of this agent needs two levels") from None
    except ValueError:
        # Python's own limit on the digits of an integer, which tomllib passes on without a place.
        raise Refused(": holds a number of thousands of digits: write a smaller one") from None


def _syntax(text: str, said: str) -> str:
    match = _POSITION.search(said)
    lines = text.split("\n")
    # "End of document" is where the parser gave up; the last line that says anything is nearer to the mistake.
    last = max((number for number, line in enumerate(lines, 1) if line.strip()), default=1)
    number = int(match[1]) if match and match[1] else last
    said = printable(_POSITION.sub("", said))
    line = lines[number - 1].strip()
    why = next((ours for theirs, ours in _INSTEAD if said.startswith(theirs)), said)
    if line.startswith("[") and said.startswith("Cannot"):
        why = _TABLE_AGAIN
    if match and not match[1]:
        why = f"the file ends in the middle of this: {why}"
    bare = None if _SECRET.search(line) else _BARE.fullmatch(line)
    if bare and said.startswith(("Invalid value", "Invalid date", "Expected newline")):
        flag = bare[2].lower() in {"yes", "no", "on", "off", "true", "false"}
        why = "write true or false" if flag else f'text stands in quotes, write {bare[1]} = "{bare[2]}"'
    return f":{number}: not valid TOML in `{shortened(_SECRET.sub(_HIDDEN, line))}`: {why}"
