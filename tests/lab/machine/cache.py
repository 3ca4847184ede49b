"""A directory of things that take long to make: each made once, aside, then renamed into place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.lab.machine.job import LaneError, say

UNUSED_DAYS = 7
KEEP = 2  # of each kind; more only while they have been used in the last hours
RECENT = 3 * 3600.0
TAIL = 15


def directory() -> Path:
    """Where it is."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "dsr-agent-lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def cached(name: str, what: str, build: Callable[[Path], None]) -> Path:
    """The directory of that name; if it is not there, one process at a time builds it."""
    target = directory() / name
    if not target.is_dir():
        with _locked():
            if not target.is_dir():
                _prune()
                say(f"building {what}")
                start = time.monotonic()
                aside = directory() / f"building-{name}"
                aside.mkdir()
                build(aside)
                aside.rename(target)
                say(f"built in {time.monotonic() - start:.0f} s")
    os.utime(target)
    return target


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with (directory() / "build.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that is building an image")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune() -> None:
    """Remove what nothing has used for some days, older versions, and what an interrupted build left."""
    kinds: dict[str, list[tuple[float, Path]]] = {}
    for path in directory().iterdir():
        if path.name.startswith("building-"):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir():
            kinds.setdefault(path.name.partition("-")[0], []).append((time.time() - path.stat().st_mtime, path))
    for versions in kinds.values():
        for place, (age, path) in enumerate(sorted(versions)):
            if age > UNUSED_DAYS * 86400 or (place >= KEEP and age > RECENT):
                shutil.rmtree(path, ignore_errors=True)


def logged(argv: list[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run one step of a build; what it prints is shown only if it fails."""
    with log.open("a") as file:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-TAIL:])
        raise LaneError(f"{argv[0]} failed with exit status {done.returncode}:\n{tail}")
