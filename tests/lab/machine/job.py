"""What goes into a machine and what comes back: one tar file each way."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
GUEST = Path(__file__).resolve().parent / "guest"

TIMED_OUT = 124
NO_RESULT = 125
RESULT_BYTES = 1 << 30  # the result disk is sparse: this is a limit, not a cost


@dataclass(frozen=True)
class Job:
    """A command to run as root in a machine, its working directory a copy of the repository."""

    command: Sequence[str]
    out: Path | None = None
    timeout: float = 900.0
    profile: str = "lean"
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_mb: int = 1024
    debian: str = "13"  # for the qemu lane
    reboots: bool = False  # a reboot inside is part of the job, not its end
    files: Mapping[str, Path] = field(default_factory=dict)  # more to take along, by name in the copy
    counted: bool = False  # one processor whose clock is its instructions: 1 ns each (qemu lane)


@dataclass(frozen=True)
class Result:
    """How a job ended. ``status`` is the command's own exit status, or None if the machine gave none back."""

    lane: str
    status: int | None
    seconds: float
    trouble: str = ""
    began: bool = True

    @property
    def exit_status(self) -> int:
        """What a caller should exit with: nothing that came back without a status is ever a success."""
        if self.status is not None:
            return self.status
        return TIMED_OUT if self.trouble.startswith("timed out") else NO_RESULT


class LaneError(Exception):
    """This way of running a job cannot be had here; the text says why."""


def say(message: str) -> None:
    """One line of progress for the person at the terminal."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def repository_files() -> list[Path]:
    """Files git tracks, and new ones it does not ignore, relative to the repository."""
    if not (REPOSITORY / ".git").exists():  # a copy, such as the one a machine gets
        found = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*") if path.is_file() or path.is_symlink())
        return sorted(path for path in found if not {"__pycache__", "out"} & set(path.parts))
    git = ["git", "-c", f"safe.directory={REPOSITORY}", "-C", str(REPOSITORY)]
    listing = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, check=True, capture_output=True).stdout
    names = sorted({name for name in listed.decode().split("\0") if name})
    return [Path(name) for name in names if (REPOSITORY / name).is_symlink() or (REPOSITORY / name).is_file()]


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _command_script(job: Job, lane: str) -> str:
    seen = {"TERM": os.environ.get("TERM", "dumb")} if sys.stdout.isatty() else {"TERM": "dumb", "NO_COLOR": "1"}
    columns = str(shutil.get_terminal_size((120, 25)).columns)
    values = {"DSR_LAB": lane, "DSR_LAB_PROFILE": job.profile, "COLUMNS": columns, **seen, **job.environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(values.items())]
    return "\n".join([*exports, "exec " + shlex.join(job.command), ""])


def pack(job: Job, lane: str, target: Path) -> None:
    """Write the job as a tar that a guest can also read as a raw disk."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for script in sorted(GUEST.glob("*.sh")):
            tar.add(script, arcname=script.name, filter=_as_root)
        text = _command_script(job, lane).encode()
        entry = tarfile.TarInfo("command.sh")
        entry.size, entry.mtime = len(text), int(time.time())
        tar.addfile(entry, io.BytesIO(text))
        for path in repository_files():
            tar.add(REPOSITORY / path, arcname=f"repo/{path}", recursive=False, filter=_as_root)
        for name, path in sorted(job.files.items()):
            tar.add(path, arcname=f"repo/{name}", recursive=False, filter=_as_root)


def empty_result(target: Path) -> None:
    """A sparse file that the guest writes its result tar to."""
    with target.open("wb") as file:
        file.truncate(RESULT_BYTES)


def unpack(result: Path, scratch: Path, out: Path | None) -> int | None:
    """Put the job's ``out/`` where it was asked for and return its exit status, or None if there is none."""
    with result.open("rb") as file:
        if not file.read(512).strip(b"\0"):
            return None
    target = scratch / "result"
    target.mkdir()
    done = subprocess.run(["tar", "-xf", str(result), "-C", str(target)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        say(f"the result came back damaged: {done.stderr.strip()}")
    if out is not None and (target / "out").is_dir():
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(target / "out", out, symlinks=True, dirs_exist_ok=True)
    try:
        return int((target / "status").read_text())
    except (OSError, ValueError):
        return None
