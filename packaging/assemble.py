"""What ``packaging/build`` runs: puts the files of the packages together and packs them."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
HERE = SOURCE / "packaging"
FILES = HERE / "files"
LOCK = HERE / "requirements.lock"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # each brings its own build of what is compiled, side by side in one folder
COMPILED = "pydantic-core"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Parts of what is brought along that are never imported, or not needed.
UNUSED = ("bin", "pydantic/v1", "tornado/test", "tornado/speedups.abi3.so", "docs", "example", "pyrad/tests")
FORMATS = ("deb", "rpm", "wheel")
MAINTAINER = "The dsr-agent authors <maintainers@dsr-agent.example>"


@dataclass(frozen=True)
class Target:
    """What is made: the same target from the same source has the same bytes."""

    arch: str
    version: str
    date: int
    out: Path


def say(message: str) -> None:
    """One line of progress."""
    print(f"build: {message}", file=sys.stderr, flush=True)


def run(argv: Sequence[str], *, cwd: Path = SOURCE, environment: Mapping[str, str] | None = None) -> bytes:
    """Run one step; what it says is shown only if it fails."""
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"build: {' '.join(argv)} failed:\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout


def source_date() -> int:
    """The moment that every file in a package carries."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    if (SOURCE / ".git").exists() and shutil.which("git"):
        return int(run(["git", "-c", f"safe.directory={SOURCE}", "log", "-1", "--format=%ct"]))
    return int((SOURCE / "CHANGELOG.md").stat().st_mtime)


def source_version() -> str:
    """What ``dsr_agent.__version__`` says."""
    match = re.search(r'__version__ = "(.+)"', (SOURCE / "dsr_agent/__init__.py").read_text())
    assert match
    return match.group(1)


# --- the files ------------------------------------------------------------------------------------------------------


def put(root: Path, path: str, text: str | bytes, mode: int = 0o644) -> None:
    """Write one file of the package."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode() if isinstance(text, str) else text)
    target.chmod(mode)


def pip(target: Path, python: str, arch: str, lock: Path) -> None:
    """Unpack wheels, for a Python and a machine that need not be these here."""
    argv = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    argv += ["--require-hashes", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    argv += [f"--platform=manylinux{tag}_{MACHINES[arch]}" for tag in ("2014", "_2_17")]
    run([*argv, f"--target={target}", "-r", str(lock)])


def vendor(root: Path, arch: str, scratch: Path) -> None:
    """Everything that dsr_agent imports and a distribution does not have, or not in this version."""
    target = root / "usr/lib/dsr-agent/vendor"
    pip(target, PYTHONS[0], arch, LOCK)
    (block,) = re.findall(rf"(?m)^{COMPILED}==.*\n(?:    .*\n)+", LOCK.read_text())
    (scratch / "compiled.lock").write_text(block)
    for python in PYTHONS[1:]:
        at = scratch / f"{arch}-{python}"
        pip(at, python, arch, scratch / "compiled.lock")
        for library in at.rglob("*.so"):
            shutil.copy(library, target / library.relative_to(at))
    for part in UNUSED:
        if (target / part).is_dir():
            shutil.rmtree(target / part)
        else:
            (target / part).unlink(missing_ok=True)
    for leftover in [path for path in target.rglob("*") if path.suffix in {".pyi", ".pyc", ".typed", ".dist"}]:
        leftover.unlink()
    for info in target.glob("*.dist-info"):
        for name in ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "top_level.txt"):
            (info / name).unlink(missing_ok=True)
    for path in target.rglob("*.py"):
        text = path.read_bytes()
        if text.startswith(b"#!"):  # nobody starts these
            path.write_bytes(text.split(b"\n", 1)[1])


def manuals(root: Path) -> None:
    """Man pages and completions."""
    for page in sorted((HERE / "man").glob("*.scd")):
        done = subprocess.run(["scdoc"], input=page.read_bytes(), capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"build: {page.name}: {done.stderr.decode()}")
        put(root, f"usr/share/man/man{page.stem[-1]}/{page.stem}.gz", packed(done.stdout))
    shtab = [sys.executable, "-m", "shtab", "--prog=dsr-agent", "dsr_agent.cli.parser"]
    environment = {"PYTHONPATH": str(SOURCE)}
    put(root, "usr/share/bash-completion/completions/dsr-agent", run([*shtab, "-s", "bash"], environment=environment))
    put(root, "usr/share/zsh/_dsr-agent", run([*shtab, "-s", "zsh"], environment=environment))


def packed(data: bytes) -> bytes:
    """Compressed, without a name and a time."""
    return gzip.compress(data, 9, mtime=0)


def changelog(target: Target) -> str:
    """Debian's form of it; the words are in CHANGELOG.md."""
    return (
        f"dsr-agent ({target.version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        f" -- {MAINTAINER}  {formatdate(target.date, localtime=False).replace('-0000', '+0000')}\n"
    )


def stage(root: Path, target: Target, scratch: Path) -> None:
    """All files of the package below *root*."""
    library = root / "usr/lib/dsr-agent"
    shutil.copytree(
        SOURCE / "dsr_agent", library / "dsr_agent", ignore=shutil.ignore_patterns("__pycache__", "py.typed")
    )
    put(root, "usr/lib/dsr-agent/dsr_agent/__init__.py", retold(target.version))
    vendor(root, target.arch, scratch)
    manuals(root)
    for name, path, mode in (
        ("launcher", "usr/bin/dsr-agent", 0o755),
        ("sysusers.conf", "usr/lib/sysusers.d/dsr-agent.conf", 0o644),
        ("networkd.network", "usr/lib/systemd/network/10-dsr-agent.network", 0o644),
        ("networkmanager.conf", "usr/lib/NetworkManager/conf.d/dsr-agent.conf", 0o644),
    ):
        put(root, path, (FILES / name).read_text(), mode)
    put(root, "usr/lib/systemd/system/dsr-agent.service", (SOURCE / "systemd/dsr-agent.service").read_text())
    put(root, "etc/dsr-agent.toml", (HERE / "dsr-agent.toml").read_text())
    put(root, "usr/share/doc/dsr-agent/README.md.gz", packed((SOURCE / "README.md").read_bytes()))
    put(root, "usr/share/doc/dsr-agent/CHANGELOG.md.gz", packed((SOURCE / "CHANGELOG.md").read_bytes()))
    for example in (*sorted((HERE / "prometheus").glob("*.rules.yml")), *sorted((HERE / "grafana").glob("*.json"))):
        put(root, f"usr/share/dsr-agent/{example.parent.name}/{example.name}", example.read_text())
    licence = "".join(f" {line or '.'}\n" for line in (SOURCE / "LICENSE").read_text().splitlines()[4:])
    put(root, "usr/share/doc/dsr-agent/copyright", (FILES / "copyright").read_text() + licence)
    put(root, "usr/share/python3/runtime.d/dsr-agent.rtupdate", (FILES / "rtupdate").read_text(), 0o755)
    put(root, "usr/share/doc/dsr-agent/changelog.gz", packed(changelog(target).encode()))
    settle(root, target.date)


def retold(version: str) -> str:
    """``dsr_agent/__init__.py`` with the version that is built."""
    return re.sub(r'(__version__ = )".+"', rf'\g<1>"{version}"', (SOURCE / "dsr_agent/__init__.py").read_text())


def settle(root: Path, date: int) -> None:
    """The same modes and times, whoever builds it when."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            path.chmod(0o755)
        elif not os.access(path, os.X_OK) or path.is_relative_to(root / "usr/lib"):
            path.chmod(0o644)
        os.utime(path, (date, date))


# --- the packages ---------------------------------------------------------------------------------------------------


def nfpm(kind: str, root: Path, target: Target) -> Path:
    """A .deb or an .rpm of what is below *root*."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(target.date))
    changes = root.parent / "changelog.yaml"
    entry = {"semver": target.version, "date": stamp, "packager": MAINTAINER, "changes": [{"note": "See CHANGELOG.md"}]}
    changes.write_text(json.dumps([entry]))
    values = {
        "ARCH": target.arch,
        "VERSION": target.version,
        "STAMP": stamp,
        "ROOT": str(root),
        "HERE": str(HERE),
        "MAINTAINER": MAINTAINER,
        "DOC": "doc" if kind == "rpm" else "file",  # the word means something to rpm only
        "CHANGELOG": f"changelog: {changes}" if kind == "rpm" else "",
    }
    recipe = root.parent / "nfpm.yaml"
    recipe.write_text(re.sub("@([A-Z]+)@", lambda match: values[match.group(1)], (HERE / "nfpm.yaml").read_text()))
    names = {
        "deb": f"dsr-agent_{target.version}_{target.arch}.deb",
        "rpm": f"dsr-agent-{target.version}-1.{MACHINES[target.arch]}.rpm",
    }
    made = target.out / names[kind]
    run(["nfpm", "package", "-f", str(recipe), "-p", kind, "-t", str(made)])
    return made


def wheel(target: Target, scratch: Path) -> Path:
    """The wheel, from a copy: building leaves nothing behind in the source."""
    copy = scratch / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, copy)
    shutil.copytree(SOURCE / "dsr_agent", copy / "dsr_agent", ignore=shutil.ignore_patterns("__pycache__"))
    put(copy, "dsr_agent/__init__.py", retold(target.version))
    settle(copy, target.date)
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    run([*argv, "--no-deps", "--no-build-isolation", "-w", str(scratch / "wheel"), "."], cwd=copy)
    (made,) = (scratch / "wheel").glob("*.whl")
    return Path(shutil.copy(made, target.out / made.name))


def arguments() -> argparse.Namespace:
    """The command line."""
    here = {machine: arch for arch, machine in MACHINES.items()}.get(platform.machine(), "amd64")
    parser = argparse.ArgumentParser(prog="packaging/build", description="Makes the packages of dsr-agent.")
    parser.add_argument("format", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--arch", choices=sorted(MACHINES), default=here)
    parser.add_argument("--version", default=source_version(), help="instead of the source's own")
    parser.add_argument("--out", type=Path, default=SOURCE / "dist", metavar="DIR")
    options = parser.parse_args()
    if unknown := set(options.format) - set(FORMATS):
        parser.error(f"there is no format {unknown.pop()!r}; there are {', '.join(FORMATS)}")
    return options


def main() -> None:
    """Make what was asked for."""
    options = arguments()
    os.umask(0o022)
    target = Target(options.arch, options.version, source_date(), options.out.resolve())
    os.environ["SOURCE_DATE_EPOCH"] = str(target.date)
    target.out.mkdir(parents=True, exist_ok=True)
    wanted = options.format or FORMATS
    with tempfile.TemporaryDirectory(prefix="dsr-agent-build-") as folder:
        scratch = Path(folder)
        if {"deb", "rpm"} & set(wanted):
            stage(scratch / "root", target, scratch)
        for kind in wanted:
            made = wheel(target, scratch) if kind == "wheel" else nfpm(kind, scratch / "root", target)
            say(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")


main()
