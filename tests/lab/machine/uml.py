"""The fast lane: user-mode Linux, a real kernel that boots in about a second."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import tempfile
import time
from pathlib import Path

from tests.lab.machine import console, host, images
from tests.lab.machine.job import Job, LaneError, Result, empty_result, pack, unpack

BOOT_TIMEOUT = 30.0

# Runs in mount, pid, net and ipc namespaces of its own: whatever happens, nothing stays mounted or running.
CHROOT = """
root=$1; uml=$2; job=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o exec,size=4g tmpfs "$root/tmp"
mount --bind "$uml/modules" "$root/usr/lib/modules"
mount -o remount,bind,ro "$root/usr/lib/modules"
cp "$uml/linux.uml" "$root/tmp/linux.uml"
mount --bind "$job" "$root/lab"
# not exec: as the namespace's first process it could not end itself when it panics
chroot "$root" /usr/bin/env -i HOME=/tmp TMPDIR=/tmp /tmp/linux.uml "$@"
"""


def prepare() -> None:
    """Make what a job needs; LaneError if it cannot be had."""
    if platform.machine() != "x86_64":
        raise LaneError(f"user-mode Linux runs on x86_64 only, this is {platform.machine()}")
    host.need_root()
    verdict = images.uml() / f"starts-{_processor()}"
    if not verdict.exists():
        result = run(Job(["true"], timeout=BOOT_TIMEOUT))
        verdict.write_text(result.trouble.strip())
    if verdict.read_text():
        raise LaneError(f"user-mode Linux does not start on this processor ({verdict.read_text()})")


def _processor() -> str:
    """User-mode Linux does not start on every processor; what is tried once on each is kept under this name."""
    described = set(re.findall(r"(?m)^(?:model name|flags)\s.*", Path("/proc/cpuinfo").read_text()))
    return hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()[:8]


def run(job: Job) -> Result:
    """Boot, run the job, come back."""
    start = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="dsr-lab-"))
    try:
        pack(job, "uml", scratch / "job.tar")
        empty_result(scratch / "result.tar")
        (scratch / "job.tar").chmod(0o600)
        shutil.copy(Path(__file__).parent / "guest/uml-init.sh", scratch / "init")
        (scratch / "init").chmod(0o755)
        ending = console.run(
            _argv(scratch, job), log=scratch / "console.log", timeout=job.timeout, boot_timeout=BOOT_TIMEOUT
        )
        status = None if ending.timed_out else unpack(scratch / "result.tar", scratch, job.out)
        return console.judge("uml", status, ending, scratch / "console.log", start)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _argv(scratch: Path, job: Job) -> list[str]:
    spaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child"]
    kernel = [f"mem={job.memory_mb}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=/lab/init"]
    kernel += ["seccomp=on", "uml_dir=/tmp/", "quiet", "panic=-1", "con=null", "con0=fd:0,fd:1"]
    kernel += ["ubd0r=/lab/job.tar", "ubd1=/lab/result.tar"]
    return [*spaces, "sh", "-ec", CHROOT, "sh", str(images.tree()), str(images.uml()), str(scratch), *kernel]
