"""The bad files in `cases/`, as parameters for tests: each is refused, and what is said stands beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.configs import MAIN

CASES = Path(__file__).parent / "cases"


def _blocks(name: str) -> Iterator[tuple[str, str]]:
    for block in (CASES / name).read_text(encoding="utf-8").split("\n=== ")[1:]:
        title, _, body = block.partition("\n")
        yield title, body


def values() -> Iterator[Any]:
    """Single values: the key, the file with a hole, what is put into it, and what is said."""
    for path, body in _blocks("values.txt"):
        template, _, pairs = body.partition("---\n")
        lines = pairs.rstrip("\n").split("\n")
        for value, said in zip(lines[::2], lines[1::2], strict=True):
            assert said.startswith("    ")
            yield pytest.param(path, template, value, said.strip(" "), id=f"{path}: {value}"[:70])


def configurations() -> Iterator[Any]:
    """Whole configurations: the files, the environment, and every line that is said."""
    for title, body in _blocks("files.txt"):
        sources, _, said = body.partition("--- refused\n")
        main, *more = re.split(r"^--- (.+)\n", sources, flags=re.MULTILINE)
        files = dict(zip(more[::2], more[1::2], strict=True))
        environ = dict(line.split("=", 1) for line in files.pop("environment", "").splitlines())
        yield pytest.param({MAIN: main, **files}, environ, said.strip("\n").split("\n"), id=title)
