"""No machine at all: the job runs on this host's own kernel, in namespaces, where that kernel has the modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.lab.machine import console, host
from tests.lab.machine.job import Job, LaneError, Result, pack, unpack

MODULES = ("ipip", "ip_gre", "ip_vs")
PROBE = """
ip link add probe0 type dummy
ip address add 192.0.2.1/32 dev probe0
ip link add probe1 type ipip local 192.0.2.1
ip link add probe2 type gre local 192.0.2.1
test -e /proc/net/ip_vs
"""

# A job may write where it likes: the host's files are seen through an overlay in memory, as in the other lanes.
SPACES = """
scratch=$1 prefix=$2 base=$3; shift 3
mount --make-rprivate /
mkdir "$scratch/root"
mount -t tmpfs tmpfs "$scratch/root"
cd "$scratch/root"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
cd root
for part in /usr /etc /var "$prefix" "$base"; do  # what lies on a file system of its own is not in the overlay
    [ -n "$(ls -A "$part")" ] && [ -z "$(ls -A ".$part" 2>/dev/null)" ] || continue
    mkdir -p ".$part"
    mount --bind "$part" ".$part"
    mount -o remount,bind,ro ".$part"
done
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/lab run/result
mount --bind "$scratch" run/result
tar -xf run/result/job.tar -C run/lab
exec chroot . "$@"
"""


def prepare() -> None:
    """See whether this kernel can do it; LaneError if not."""
    host.need_root()
    host.need(host.MODULES)
    for module in MODULES:
        subprocess.run(["modprobe", "-q", module], check=False)
    probe = subprocess.run(["unshare", "--net", "sh", "-ec", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise LaneError(f"this host's kernel has not all of {', '.join(MODULES)}: {probe.stderr.strip()}")
    host.need(host.NAMESPACES)


def run(job: Job) -> Result:
    """Run the job in namespaces of its own."""
    start = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="dsr-lab-"))
    try:
        pack(job, "here", scratch / "job.tar")
        spaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        inside = ["env", f"LAB_PYTHON={Path(sys.prefix) / 'bin'}", "sh", "/run/lab/job.sh", "/run/lab"]
        places = [str(scratch), sys.prefix, sys.base_prefix]
        argv = [*spaces, "sh", "-ec", SPACES, "sh", *places, *inside, "/run/result/result.tar"]
        log = scratch / "console.log"
        ending = console.run(argv, log=log, timeout=job.timeout, boot_timeout=60.0)
        result = scratch / "result.tar"
        status = unpack(result, scratch, job.out) if result.exists() and not ending.timed_out else None
        return console.judge("here", status, ending, log, start)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
