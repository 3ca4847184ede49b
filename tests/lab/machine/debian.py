"""Getting Debian: a root directory of it, and single packages. From the archive the host itself uses."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.machine.cache import logged
from tests.lab.machine.job import LaneError

UNWANTED = ("man", "doc", "locale", "info")


def _host_options() -> list[str]:
    """The host's own apt settings about fetching (proxy, certificates, dates)."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r"^Acquire::(http|https|Retries|Check-Date|Check-Valid-Until)\b.*\".+\";$")
    return [line for line in dump.splitlines() if wanted.match(line)]


def _host_mirror() -> list[str]:
    """The Debian archive in the host's apt sources, if there is one; else mmdebstrap knows one."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        uri, _, component = line.partition(" ")
        if component == "main" and re.search(r"/debian/?$", uri):
            return [uri]
    return []


def make_root(root: Path, suite: str, packages: Sequence[str], log: Path) -> None:
    """Unpack and configure a small Debian with these packages."""
    argv = ["unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    argv += [f"--aptopt={line}" for line in _host_options()]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in UNWANTED]
    logged([*argv, suite, str(root), *_host_mirror()], log=log)


def _mirror_of(root: Path) -> str:
    match = re.search(r"^deb (?:\[.*?\] )?(\S+)", (root / "etc/apt/sources.list").read_text(), re.MULTILINE)
    if match is None:
        raise LaneError("the image does not say which Debian archive it came from")
    return match.group(1)


def fetch(package: str, suite: str, root: Path, at: Path, stands_for: str = "") -> Path:
    """Download one package, through an apt configuration of its own; nothing is installed.

    ``root`` is a Debian made here: the archive is the one it came from. ``stands_for``: the package is only a name for
    the newest one whose name begins so, and that is the one wanted.
    """
    state, log = at / "apt", at / "log"
    for directory in ("lists/partial", "archives/partial", "deb"):
        (state / directory).mkdir(parents=True)
    (state / "sources.list").write_text(f"deb {_mirror_of(root)} {suite} main\n")
    settings = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
    }
    (state / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    environment = {"APT_CONFIG": str(state / "apt.conf")}
    logged(["apt-get", "update", "-q"], log=log, environment=environment)
    if stands_for:
        depends = subprocess.run(
            ["apt-cache", "depends", package],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        match = re.search(rf"Depends: ({re.escape(stands_for)}\S+)", depends.stdout)
        if match is None:
            raise LaneError(f"Debian {suite} does not say which package {package} stands for")
        package = match.group(1)
    logged(["env", "-C", str(state / "deb"), "apt-get", "download", "-q", package], log=log, environment=environment)
    found = list((state / "deb").glob("*.deb"))
    if len(found) != 1:
        raise LaneError(f"{package} was not downloaded from Debian {suite}")
    return found[0]
