"""The images the machines boot: made once, cached by a hash of what they are made of."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.machine import debian, host
from tests.lab.machine.cache import cached, logged
from tests.lab.machine.job import GUEST, REPOSITORY, LaneError, say

RECIPE = "2"  # raise it when the way an image is made changes
UML_SUITE = "sid"  # older builds of user-mode Linux panic on recent processors
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps"),
    *("iproute2", "nftables", "iptables", "ipvsadm", "conntrack", "ethtool"),
    *("tcpdump", "iputils-ping", "iputils-arping"),
    *("python3", "python3-systemd"),
)
LOCK = REPOSITORY / "tests" / "requirements.lock"
NOT_IN_GUESTS = {  # what checks the source stays on the host
    *("ruff", "import-linter", "grimp", "click", "rich", "markdown-it-py", "mdurl"),
    *("mypy", "mypy-extensions", "librt", "ast-serialize", "pathspec"),
}


@dataclass(frozen=True)
class Debian:
    """
    A release of Debian.

    *early* are modules that its kernel needs to reach the job and the console. Of the packages *programs* only the
    program of the same name is wanted; installed, they would bring services. *applications* are installed, for the
    tests to run in namespaces, and *dormant* are the services among them: they do not start with the machine.
    """

    number: str
    suite: str
    python: str
    early: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    dormant: tuple[str, ...] = ()


DEBIAN_13 = Debian(
    *("13", "trixie", "3.13"),
    programs=("prometheus", "promtool"),
    applications=("freeradius", "freeradius-utils", "libauthen-tacacsplus-perl", "keepalived"),
    dormant=("freeradius.service", "keepalived.service"),
)
DEBIAN_12 = Debian("12", "bookworm", "3.11", early=("virtio_pci", "virtio_console", "virtio_blk"))
DEBIANS = {release.number: release for release in (DEBIAN_13, DEBIAN_12)}
DISK_FILES = tuple(GUEST / name for name in ("qemu-boot.sh", "lab.service", "lean.target"))


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join((RECIPE, *parts)).encode()).hexdigest()[:16]


def _need_tools() -> None:
    host.need_root()
    host.need(host.IMAGES, {host.KEYRING: "debian-archive-keyring"})


def guest_requirements() -> str:
    """The part of the lock that guests get."""
    lines = [line for line in LOCK.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#")]
    wanted = []
    for block in re.split(r"(?m)^(?=[a-z0-9])", "".join(lines)):
        name = re.match(r"[a-z0-9._-]+", block)
        if name and name.group() not in NOT_IN_GUESTS:
            wanted.append(block)
    return "".join(wanted)


def _name(kind: str, release: Debian) -> str:
    """The cache keeps the newest few of each kind."""
    return kind if release is DEBIAN_13 else kind + release.number


def tree(release: Debian = DEBIAN_13) -> Path:
    """A Debian root directory with everything the tests need but a kernel."""
    requirements = guest_requirements()
    contents = (*PACKAGES, *release.programs, *release.applications, *release.dormant)
    name = f"{_name('tree', release)}-{_key(release.suite, *contents, requirements)}"
    what = f"the Debian {release.number} image (once, up to 90 s)"
    return cached(name, what, lambda at: _build_tree(at, release, requirements)) / "root"


def _build_tree(at: Path, release: Debian, requirements: str) -> None:
    _need_tools()
    root, log, lock = at / "root", at / "log", at / "requirements.lock"
    debian.make_root(root, release.suite, (*PACKAGES, *release.applications), log)
    if release.dormant:
        logged(["chroot", str(root), "systemctl", "mask", *release.dormant], log=log)
    for program in release.programs:
        _unpack_program(program, root, at, release)
    say("installing the Python packages into it")
    lock.write_text(requirements)
    target = root / "usr/local/lib" / f"python{release.python}" / "dist-packages"
    argv = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    argv += ["--require-hashes", "--only-binary=:all:", f"--python-version={release.python}", "--implementation=cp"]
    argv += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 24, 28, 34)]
    logged([*argv, f"--target={target}", "-r", str(lock)], log=log)
    compiled = [f"/usr/local/lib/python{release.python}", f"/usr/lib/python{release.python}"]
    logged(["chroot", str(root), "python3", "-m", "compileall", "-q", "-j0", *compiled], log=log)
    for directory in ("lab", "usr/lib/modules"):  # where user-mode Linux has its job and its modules
        (root / directory).mkdir(exist_ok=True)


def _unpack_program(name: str, root: Path, at: Path, release: Debian) -> None:
    """A program out of the package of that name, without the package."""
    unpacked = at / "unpacked"
    logged(["dpkg", "-x", str(debian.fetch(name, release.suite, root, at)), str(unpacked)], log=at / "log")
    shutil.move(unpacked / "usr/bin" / name, root / "usr/bin" / name)
    for leftover in (unpacked, at / "apt"):
        shutil.rmtree(leftover)


def uml() -> Path:
    """User-mode Linux, unpacked: ``linux.uml`` and ``modules/``."""
    base = tree()
    return cached(f"uml-{_key(UML_SUITE)}", "the user-mode Linux kernel (once)", lambda at: _build_uml(at, base))


def _build_uml(at: Path, base: Path) -> None:
    package = debian.fetch("user-mode-linux", UML_SUITE, base, at)
    logged(["dpkg", "-x", str(package), str(at / "unpacked")], log=at / "log")
    shutil.move(at / "unpacked/usr/bin/linux.uml", at / "linux.uml")
    shutil.move(at / "unpacked/usr/lib/uml/modules", at / "modules")
    for leftover in ("unpacked", "apt"):
        shutil.rmtree(at / leftover)


def disk(release: Debian = DEBIAN_13) -> Path:
    """The Debian machine for qemu: ``root.ext4`` and ``vmlinux``."""
    base = tree(release)
    parts = [base.parent.name, KERNEL, *release.early, *(path.read_text() for path in DISK_FILES)]
    what = f"the disk of the Debian {release.number} machine (once, about 15 s)"
    return cached(f"{_name('disk', release)}-{_key(*parts)}", what, lambda at: _build_disk(at, release, base))


def _build_disk(at: Path, release: Debian, base: Path) -> None:
    _need_tools()
    root, kernel, log = at / "root", at / "kernel", at / "log"
    logged(["cp", "-a", "--reflink=auto", str(base), str(root)], log=log)
    package = debian.fetch(KERNEL, release.suite, base, at, stands_for="linux-image-")
    logged(["dpkg", "-x", str(package), str(kernel)], log=log)
    (modules,) = kernel.glob("**/lib/modules")  # below usr/ since Debian 13
    (version,) = [path.name for path in modules.iterdir()]
    logged(["cp", "-a", str(modules), str(root / "usr/lib")], log=log)
    logged(["chroot", str(root), "depmod", version], log=log)
    (at / "vmlinux").write_bytes(vmlinux((kernel / f"boot/vmlinuz-{version}").read_bytes()))
    for source in DISK_FILES:
        shutil.copy(source, root / ("usr/local/sbin" if source.suffix == ".sh" else "etc/systemd/system"))
    (root / "usr/local/sbin/qemu-boot.sh").chmod(0o755)
    (root / "etc/modules-load.d/lab.conf").write_text("".join(f"{module}\n" for module in release.early))
    (root / "etc/machine-id").write_text("6473722d6c61622d6d616368696e6521\n")  # any: without one it is a first boot
    (root / "etc/hostname").write_text("guest\n")
    logged(["truncate", "-s", "4G", str(at / "root.ext4")], log=log)
    options = ["-q", "-F", "-m", "0", "-O", "^has_journal", "-L", "root", "-d", str(root)]
    logged(["mkfs.ext4", *options, str(at / "root.ext4")], log=log)
    for leftover in (root, kernel, at / "apt"):
        shutil.rmtree(leftover)


def vmlinux(image: bytes) -> bytes:
    """The kernel inside a bzImage: qemu starts it directly (PVH), with nothing to unpack under emulation."""
    start = (image[0x1F1] + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    payload = image[start : start + length - 4]  # the last four bytes are its unpacked size
    tools = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz", b"\x1f\x8b\x08": "gzip", b"\x02\x21\x4c\x18": "lz4"}
    tool = next((name for magic, name in tools.items() if payload.startswith(magic)), None)
    if tool is None:
        raise LaneError("the kernel is packed in a way that is not known here")
    done = subprocess.run([tool, "-dc"], input=payload, capture_output=True, check=False)
    if not done.stdout.startswith(b"\x7fELF"):
        raise LaneError(f"unpacking the kernel with {tool} failed: {done.stderr.decode(errors='replace')}")
    return done.stdout
