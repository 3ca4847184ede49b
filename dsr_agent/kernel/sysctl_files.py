"""
Which file sets a sysctl, and in which line: the directories of sysctl.d(5), as they are read at boot.

A file hides those of its name in directories that come later; files are read in the order of their names, and a later
line goes above an earlier one, except that a line which names the key goes above every pattern that fits it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

_FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
_LINE = re.compile(r"\s*-?\s*([^#;\s=][^\s=]*)\s*=\s*(\S+)")


class Setting(NamedTuple):
    """A line that sets something: where, which keys (with slashes), and to what."""

    file: str
    line: int
    pattern: str
    value: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.pattern.replace('/', '.')} = {self.value}"


def settings_of(root: Path, path: str) -> tuple[Setting, ...]:
    """The lines that set the sysctl at *path* (``net/ipv4/conf/eth0/rp_filter``), what holds in the end last."""
    fitting = [each for each in _all(root) if fnmatchcase(path, each.pattern)]
    return tuple(sorted(fitting, key=lambda each: each.pattern == path))


def _all(root: Path) -> Iterator[Setting]:
    files: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in (root / folder).glob("*.conf"):
            files.setdefault(path.name, path)
    for path in (*(files[name] for name in sorted(files)), root / "etc/sysctl.conf"):
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            if found := _LINE.match(line):
                yield Setting(f"/{path.relative_to(root)}", number, _slashes(found.group(1)), found.group(2))


def _slashes(key: str) -> str:
    """Dots and slashes change places where a dot comes first (sysctl.d(5))."""
    first = next((character for character in key if character in "./"), "/")
    return key if first == "/" else key.translate(str.maketrans("./", "/."))
