"""What a machine needs from the host: programs, and the packages that bring them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from tests.lab.machine.job import LaneError, say

IMAGES = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "zstd": "zstd", "lz4": "lz4", "unshare": "util-linux"}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
QEMU = {"qemu-system-x86_64": "qemu-system-x86"}
MODULES = {"ip": "iproute2", "modprobe": "kmod"}
NAMESPACES = {"ipvsadm": "ipvsadm", "sysctl": "procps", "ping": "iputils-ping"}


def need(programs: Mapping[str, str], files: Mapping[str, str] | None = None) -> None:
    """See to it that the programs are there, installing their packages if they are not."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = {package for program, package in programs.items() if shutil.which(program, path=path) is None}
    missing |= {package for file, package in (files or {}).items() if not os.path.exists(file)}
    if not missing:
        return
    names = " ".join(sorted(missing))
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LaneError(f"missing: {names}. Install it as root: apt-get install {names}")
    say(f"installing {names} (apt-get)")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *sorted(missing)]
    if _quietly(install).returncode == 0:
        return
    _quietly(["apt-get", "update", "-q"])
    done = _quietly(install)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-10:])
        raise LaneError(f"apt-get could not install {names}:\n{tail}")


def _quietly(argv: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def need_root() -> None:
    """Namespaces, mounts and images are root's business."""
    if os.geteuid() != 0:
        raise LaneError("this needs root")
