"""
Kernel modules: is it there, may it be loaded, and if a kind of link cannot be had, why not.

Creating a link makes the kernel load the module by itself, also for a process that may not (facts A6), so loading
here is a courtesy. What the kernel answers when it cannot is the same errno for every cause; `diagnose` looks for
the cause where an administrator would.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from dsr_agent.state.errors import DsrError, Unsupported

_CONFIGURATION = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)
_LIBRARIES = ("lib/modules", "usr/lib/modules", "run/dsr-agent/modules")  # the last is where the service sees them
_LOAD_SECONDS = 20.0


class Modules:
    """The modules of the running kernel, seen below *root* (tests hand in another one)."""

    def __init__(self, root: Path = Path("/"), release: str = "") -> None:
        self._root = root
        self._release = release or platform.release()

    def present(self, names: Iterable[str]) -> frozenset[str]:
        """Those of *names* that are loaded or built in."""
        built_in = self._built_in()
        return frozenset(name for name in names if name in built_in or (self._root / "sys/module" / name).exists())

    async def load(self, name: str) -> None:
        """
        Ask for *name*; quiet when it cannot be loaded from here.

        ``-b`` honours the administrator's blacklist, as the kernel's own request does, so that both ways end alike.
        """
        if os.geteuid() != 0:
            return
        try:
            process = await asyncio.create_subprocess_exec(
                "modprobe", "-q", "-b", "--", name, stdin=asyncio.subprocess.DEVNULL
            )
        except OSError:
            return  # no modprobe here (a container): the kernel's own request goes to the host's
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def diagnose(self, name: str) -> DsrError:
        """Why links that need module *name* cannot be created, and what to do about it."""
        if self.present([name]):
            return Unsupported(
                f"module {name} is there, yet the kernel refuses links of its kind",
                "look into dmesg for the reason",
            )
        return self.obstacle(name) or Unsupported(
            f"module {name} is on disk, yet could not be loaded",
            f"try: modprobe {name}; dmesg tells the reason",
        )

    def obstacle(self, name: str) -> DsrError | None:
        """What keeps module *name*, which is not there, from being loaded; None if nothing that can be seen does."""
        if self._read("proc/sys/kernel/modules_disabled").strip() == "1":
            return Unsupported(
                f"module {name} is not loaded, and loading is switched off until reboot (kernel.modules_disabled=1)",
                f"have it loaded at boot: echo {name} > /etc/modules-load.d/dsr-agent.conf, then reboot",
            )
        if (library := self._library()) is None:
            return Unsupported(
                f"module {name} is not loaded, and there are no modules on disk for the running kernel {self._release}",
                "reboot if the kernel was upgraded; in a container, load it on the host (modprobe " + name + ")",
            )
        if where := self._forbidden(name):
            return Unsupported(f"module {name} is blacklisted in {where}", "remove that line")
        if name not in self._on_disk(library):
            return Unsupported(f"the running kernel {self._release} has no module {name}", f"install {self._package()}")
        return None

    def _library(self) -> Path | None:
        for top in _LIBRARIES:
            if os.path.isdir(path := self._root / top / self._release):  # the sandbox lets nobody look into the first
                return path
        return None

    def _built_in(self) -> frozenset[str]:
        library = self._library()
        return _names(library / "modules.builtin") if library else frozenset()

    def _on_disk(self, library: Path) -> frozenset[str]:
        return _names(library / "modules.dep")

    def _forbidden(self, name: str) -> str:
        """The file and line that keeps *name* from being loaded, or nothing."""
        pattern = re.compile(
            rf"\s*(?:blacklist\s+{_spelling(name)}\s*$|install\s+{_spelling(name)}\s+\S*/?(?:false|true)\b)"
        )
        for folder in _CONFIGURATION:
            for path in sorted((self._root / folder).glob("*.conf")):
                for number, line in enumerate(self._read(str(path.relative_to(self._root))).splitlines(), 1):
                    if pattern.match(line):
                        return f"/{path.relative_to(self._root)}, line {number}"
        return ""

    def _package(self) -> str:
        """The package that usually carries the modules a small kernel package leaves out."""
        words = dict(
            re.sub("[\"']", "", line).split("=", 1) for line in self._read("etc/os-release").splitlines() if "=" in line
        )
        family = {words.get("ID", ""), *words.get("ID_LIKE", "").split()}
        if "ubuntu" in family:
            return f"linux-modules-extra-{self._release}"
        if family & {"rhel", "fedora", "centos"}:
            return f"kernel-modules-extra (kernel-modules-extra-{self._release})"
        if "debian" in family:
            return "linux-image-amd64 or linux-image-cloud-amd64 (or your architecture's), then reboot into it"
        return "the package with the extra modules of this kernel"

    def _read(self, path: str) -> str:
        try:
            return (self._root / path).read_text("utf-8", "replace")
        except OSError:
            return ""


def _names(index: Path) -> frozenset[str]:
    """The module names in ``modules.builtin`` or ``modules.dep``: file names, with dashes as underscores."""
    try:
        lines = index.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    files = (line.split(":", 1)[0].rsplit("/", 1)[-1] for line in lines)
    return frozenset(file.split(".ko", 1)[0].replace("-", "_") for file in files)


def _spelling(name: str) -> str:
    """modprobe takes dashes and underscores for the same."""
    return re.escape(name).replace("_", "[-_]")
