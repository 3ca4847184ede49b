"""The packages under test: built once for all tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.machine import host
from tests.lab.machine.job import REPOSITORY

TOOLS = {"lintian": "lintian", "rpmlint": "rpmlint", "rpm": "rpm", "rpm2cpio": "rpm2cpio", "cpio": "cpio"}

Build = Callable[..., Path]


@dataclass(frozen=True)
class Built:
    """The packages, and what is in them."""

    deb: Path
    rpm: Path
    wheel: Path
    tree: Path


def build(out: Path, *arguments: str, **environment: str) -> Path:
    """``packaging/build``; what it says is shown only if it fails."""
    argv = ["packaging/build", *arguments, "--out", str(out)]
    done = subprocess.run(
        argv, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All packages for this machine."""
    host.need(TOOLS)
    out = build(tmp_path_factory.mktemp("dist"))
    tree = tmp_path_factory.mktemp("tree")
    (deb,), (rpm,), (wheel,) = out.glob("*.deb"), out.glob("*.rpm"), out.glob("*.whl")
    subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
    return Built(deb, rpm, wheel, tree)
