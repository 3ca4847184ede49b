"""The images the machines boot: made once, cached by a hash of what they are made of."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.machine.job import GUEST, REPOSITORY, LaneUnavailable, say

SUITE = "trixie"
UML_SUITE = "sid"  # older builds of user-mode Linux panic on recent processors
KERNEL = "linux-image-cloud-amd64"
RECIPE = "1"  # raise it when the way an image is made changes
KEEP_DAYS = 7
PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps"),
    *("iproute2", "nftables", "ipvsadm", "conntrack", "ethtool", "tcpdump", "iputils-ping", "iputils-arping"),
    *("python3", "python3-systemd"),
)
DISK_FILES = tuple(GUEST / name for name in ("qemu-boot.sh", "lab.service", "lean.target"))
LOCK = REPOSITORY / "tests" / "requirements.lock"
NOT_IN_GUESTS = {"mypy", "mypy-extensions", "librt", "ast-serialize", "pathspec", "ruff", "import-linter", "grimp"} | {
    *("rich", "markdown-it-py", "mdurl", "click")
}
GUEST_PYTHON = "3.13"


def cache() -> Path:
    """Where images are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "dsr-agent-lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def guest_requirements() -> str:
    """The part of the lock that guests get: what checks the source stays on the host."""
    lines = [line for line in LOCK.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#")]
    wanted = []
    for block in re.split(r"(?m)^(?=[a-z0-9])", "".join(lines)):
        name = re.match(r"[a-z0-9._-]+", block)
        if name and name.group() not in NOT_IN_GUESTS:
            wanted.append(block)
    return "".join(wanted)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join((RECIPE, *parts)).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    with (cache() / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that is building an image")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(name: str, what: str, build: Callable[[Path], None]) -> Path:
    """The cached directory of that name; built aside and renamed, by one process at a time, if it is not there."""
    target = cache() / name
    if not target.is_dir():
        with _locked("build.lock"):
            if not target.is_dir():
                _prune()
                say(f"building {what}")
                start = time.monotonic()
                aside = cache() / f"building-{name}"
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                build(aside)
                aside.rename(target)
                say(f"built in {time.monotonic() - start:.0f} s")
    os.utime(target)
    return target


def _prune() -> None:
    """Remove images that nothing has used for some days, and what an interrupted build left."""
    for path in cache().iterdir():
        stale = time.time() - path.stat().st_mtime > KEEP_DAYS * 86400
        if path.is_dir() and (path.name.startswith("building-") or stale):
            shutil.rmtree(path, ignore_errors=True)


def _run(argv: list[str], *, log: Path, environment: dict[str, str] | None = None) -> None:
    with log.open("a") as file:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(environment or {})}, check=False
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LaneUnavailable(f"{argv[0]} failed with exit status {done.returncode}:\n{tail}")


def _host_apt_options() -> list[str]:
    """The host's own apt settings about fetching (proxy, certificates, dates), to be used for the image too."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r"^Acquire::(http|https|Retries|Check-Date|Check-Valid-Until)\b.*\".+\";$")
    return [line for line in dump.splitlines() if wanted.match(line)]


def _host_mirror() -> list[str]:
    """The Debian archive this host uses, if apt knows it."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        uri, _, component = line.partition(" ")
        if component == "main" and re.search(r"/debian/?$", uri):
            return [uri]
    return []


def tree() -> Path:
    """A Debian root directory with everything the tests need but a kernel."""
    requirements = guest_requirements()
    name = f"tree-{_key(SUITE, *PACKAGES, requirements)}"
    return _cached(name, "the Debian 13 image (once, about a minute)", lambda at: _build_tree(at, requirements)) / "root"


def _build_tree(at: Path, requirements: str) -> None:
    root, log = at / "root", at / "log"
    options = [f"--aptopt={line}" for line in _host_apt_options()]
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale", "info")]
    _run(
        ["unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        + [*options, *excluded, SUITE, str(root), *_host_mirror()],
        log=log,
    )
    say("installing the Python packages into it")
    (at / "requirements.lock").write_text(requirements)
    packages = root / "usr/local/lib" / f"python{GUEST_PYTHON}" / "dist-packages"
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 24, 28, 34)]
    _run(
        [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "--no-deps"]
        + ["--require-hashes", "--only-binary=:all:", f"--python-version={GUEST_PYTHON}", "--implementation=cp"]
        + [*platforms, "--platform=linux_x86_64", f"--target={packages}", "-r", str(at / "requirements.lock")],
        log=log,
    )
    _run(
        ["chroot", str(root), "python3", "-m", "compileall", "-q", "-j0"]
        + [f"/usr/local/lib/python{GUEST_PYTHON}", f"/usr/lib/python{GUEST_PYTHON}"],
        log=log,
    )
    for directory in ("lab", "lib/modules"):
        (root / directory).mkdir(exist_ok=True)


def fetch(suite: str, package: str, at: Path, log: Path, follow: str = "") -> Path:
    """Download one package of a Debian suite, through an apt configuration of its own; nothing is installed.

    ``follow``: the package is only a name for the newest one that begins so; take that.
    """
    mirror = _tree_mirror()
    state = at / f"apt-{suite}"
    for directory in ("lists/partial", "archives/partial"):
        (state / directory).mkdir(parents=True, exist_ok=True)
    (state / "sources.list").write_text(f"deb {mirror} {suite} main\n")
    settings = {
        **{"Dir::State": state, "Dir::State::lists": state / "lists", "Dir::Cache": state},
        **{"Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": "/dev/null"},
        **{"Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null"},
        **{"APT::Sandbox::User": "root", "APT::Architecture": "amd64", "APT::Architectures": "amd64"},
    }
    (state / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    environment = {"APT_CONFIG": str(state / "apt.conf")}
    _run(["apt-get", "update", "-q"], log=log, environment=environment)
    if follow:
        shown = subprocess.run(
            ["apt-cache", "depends", package], env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        match = re.search(rf"Depends: ({re.escape(follow)}\S+)", shown.stdout)
        if match is None:
            raise LaneUnavailable(f"Debian {suite} does not say which package {package} stands for")
        package = match.group(1)
    downloads = at / f"deb-{package}"
    downloads.mkdir()
    _run(["env", "-C", str(downloads), "apt-get", "download", "-q", package], log=log, environment=environment)
    found = list(downloads.glob("*.deb"))
    if len(found) != 1:
        raise LaneUnavailable(f"{package} was not downloaded from Debian {suite}")
    return found[0]


def _tree_mirror() -> str:
    sources = (tree() / "etc/apt/sources.list").read_text()
    match = re.search(r"^deb (?:\[.*?\] )?(\S+)", sources, re.M)
    if match is None:
        raise LaneUnavailable("the image does not say which Debian mirror it came from")
    return match.group(1)


def uml() -> Path:
    """User-mode Linux, unpacked: ``linux.uml`` and ``modules/``."""
    tree()  # first: it knows the mirror
    return _cached(f"uml-{_key(UML_SUITE)}", "the user-mode Linux kernel (once)", _build_uml)


def disk() -> Path:
    """The Debian machine for qemu: ``root.ext4`` and ``vmlinux``."""
    base = tree()
    guest = [path.read_text() for path in DISK_FILES]
    name = f"disk-{_key(base.parent.name, KERNEL, *guest)}"
    return _cached(name, "the disk of the Debian 13 machine (once)", lambda at: _build_disk(at, base))


def _build_disk(at: Path, base: Path) -> None:
    log, root = at / "log", at / "root"
    _run(["cp", "-a", "--reflink=auto", str(base), str(root)], log=log)
    package = fetch(SUITE, KERNEL, at, log, follow="linux-image-")
    _run(["dpkg", "-x", str(package), str(at / "kernel")], log=log)
    (version,) = [path.name for path in (at / "kernel/usr/lib/modules").iterdir()]
    _run(["cp", "-a", str(at / "kernel/usr/lib/modules"), str(root / "usr/lib")], log=log)
    _run(["chroot", str(root), "depmod", version], log=log)
    (at / "vmlinux").write_bytes(vmlinux((at / f"kernel/boot/vmlinuz-{version}").read_bytes()))
    for source in DISK_FILES:
        units = "etc/systemd/system" if source.suffix != ".sh" else "usr/local/sbin"
        shutil.copy(source, root / units / source.name)
    (root / "usr/local/sbin/qemu-boot.sh").chmod(0o755)
    (root / "etc/machine-id").write_text("6473722d6c61622d6d616368696e6521\n")  # any: without one it is a first boot
    (root / "etc/hostname").write_text("guest\n")
    _run(["truncate", "-s", "4G", str(at / "root.ext4")], log=log)
    options = ["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-L", "root"]
    _run(["mkfs.ext4", *options, "-d", str(root), str(at / "root.ext4")], log=log)
    for leftover in [root, at / "kernel", *at.glob("apt-*"), *at.glob("deb-*")]:
        shutil.rmtree(leftover)


def vmlinux(image: bytes) -> bytes:
    """The uncompressed kernel inside a bzImage: qemu starts it at once (PVH), with nothing to unpack under emulation."""
    start = (image[0x1F1] + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    payload = image[start : start + length - 4]  # the last four bytes are its unpacked size
    tools = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz", b"\x1f\x8b\x08": "gzip"}
    tool = next((name for magic, name in tools.items() if payload.startswith(magic)), None)
    if tool is None:
        raise LaneUnavailable("the kernel is packed in a way that is not known here")
    done = subprocess.run([tool, "-dc"], input=payload, capture_output=True, check=False)
    if not done.stdout.startswith(b"\x7fELF"):
        raise LaneUnavailable(f"unpacking the kernel with {tool} failed: {done.stderr.decode(errors='replace')}")
    return done.stdout


def _build_uml(at: Path) -> None:
    log = at / "log"
    package = fetch(UML_SUITE, "user-mode-linux", at, log)
    _run(["dpkg", "-x", str(package), str(at / "unpacked")], log=log)
    shutil.move(at / "unpacked/usr/bin/linux.uml", at / "linux.uml")
    shutil.move(at / "unpacked/usr/lib/uml/modules", at / "modules")
    for leftover in [at / "unpacked", *at.glob("apt-*"), *at.glob("deb-*")]:
        shutil.rmtree(leftover)
