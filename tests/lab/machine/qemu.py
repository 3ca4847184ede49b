"""The reference lane: a Debian machine with Debian's own kernel, systemd and udev, under qemu."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from pathlib import Path

from tests.lab.machine import console, host, images
from tests.lab.machine.job import Job, LaneError, Result, empty_result, pack, unpack

QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT = 240.0

# What a boot spends its time on and no test of the lean profile looks at.
LEAN = (
    *("systemd-udev-trigger.service", "systemd-hwdb-update.service", "systemd-binfmt.service", "timers.target"),
    *("systemd-random-seed.service", "systemd-boot-random-seed.service", "systemd-update-utmp.service"),
    *("systemd-pcrmachine.service", "systemd-tpm2-setup-early.service", "systemd-tpm2-setup.service"),
    *("systemd-journal-flush.service", "systemd-journal-catalog-update.service", "systemd-update-done.service"),
    *("systemd-firstboot.service", "systemd-sysusers.service", "ldconfig.service", "modprobe@drm.service"),
    *("modprobe@efi_pstore.service", "modprobe@fuse.service", "systemd-pstore.service", "dev-hugepages.mount"),
    *("dev-mqueue.mount", "sys-kernel-tracing.mount", "systemd-tmpfiles-setup-dev.service"),
)


def prepare() -> None:
    """Make what a job needs; LaneError if it cannot be had."""
    if platform.machine() != "x86_64":
        raise LaneError(f"the image is for x86_64, this is {platform.machine()}")
    host.need_root()
    host.need(host.QEMU)
    images.disk()


def run(job: Job) -> Result:
    """Boot, run the job, come back."""
    start = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="dsr-lab-"))
    try:
        pack(job, "qemu", scratch / "job.tar")
        empty_result(scratch / "result.tar")
        log = scratch / "console.log"
        ending = console.run(_argv(scratch, job), log=log, timeout=job.timeout, boot_timeout=BOOT_TIMEOUT)
        status = None if ending.timed_out else unpack(scratch / "result.tar", scratch, job.out)
        return console.judge("qemu", status, ending, log, start)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _argv(scratch: Path, job: Job) -> list[str]:
    disk = images.disk(images.DEBIANS[job.debian])
    # One CPU: with two, emulation sometimes runs a stale int3 of a jump label that the other CPU is patching (every
    # netfilter hook is behind one), and the guest panics in nft_do_chain.
    machine = ["-accel", "tcg", "-smp", "1"]
    if job.counted:
        machine = ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off"]
    machine += ["-cpu", "Nehalem", "-m", str(job.memory_mb)]
    machine += ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]
    machine += [] if job.reboots else ["-no-reboot"]
    root = f"file={disk / 'root.ext4'},format=raw,if=none,id=root,snapshot=on"
    machine += ["-drive", root, "-device", "nvme,drive=root,serial=root"]
    for name, readonly in (("job", "on"), ("result", "off")):
        machine += ["-drive", f"file={scratch / name}.tar,format=raw,if=none,id={name},readonly={readonly}"]
        machine += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    machine += ["-chardev", "stdio,id=console", "-device", "virtio-serial-pci"]
    machine += ["-device", "virtconsole,chardev=console"]
    return [QEMU, *machine, "-kernel", str(disk / "vmlinux"), "-append", _command_line(job.profile)]


def _command_line(profile: str) -> str:
    words = ["root=/dev/nvme0n1", "rootfstype=ext4", "rw", "console=hvc0", "quiet", "panic=-1", "mitigations=off"]
    words += ["systemd.show_status=0", "systemd.log_target=journal", "systemd.wants=lab.service"]
    words += ["systemd.getty_auto=no", "systemd.mask=getty.target"]  # a getty would take the console from the job
    if profile == "lean":
        words += ["systemd.unit=lean.target", *(f"systemd.mask={unit}" for unit in LEAN)]
    else:
        words += ["systemd.unit=multi-user.target", "systemd.wants=systemd-networkd.service"]
    return " ".join(words)
