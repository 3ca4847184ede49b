"""Modules over made-up roots: what is there, and why a kind of link cannot be had."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsr_agent.kernel.modules import Modules

RELEASE = "6.12.0-test"
BLACKLISTED = "remove that line"
Root = Callable[[dict[str, str]], Modules]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Makes a root with these files, and looks at it."""

    def make(files: dict[str, str]) -> Modules:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Modules(tmp_path, RELEASE)

    return make


DEP = f"lib/modules/{RELEASE}/modules.dep"
BUILTIN = f"lib/modules/{RELEASE}/modules.builtin"
HERE = {DEP: "kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/tunnel4.ko.xz\nkernel/net/ipv4/ip_gre.ko.zst:\n"}


def test_a_module_is_present_when_it_is_loaded_or_built_in(root: Root) -> None:
    """Dashes and underscores in file names are the same."""
    modules = root({"sys/module/ipip/refcnt": "0", BUILTIN: "kernel/net/ipv4/ip-gre.ko\n"})

    assert modules.present(["ipip", "ip_gre", "sit"]) == {"ipip", "ip_gre"}


def test_no_module_is_present_on_a_kernel_without_any(root: Root) -> None:
    """No library, nothing loaded."""
    assert root({}).present(["ipip"]) == frozenset()


CAUSES: dict[str, tuple[dict[str, str], str, str]] = {
    "loaded": (
        {"sys/module/ipip/refcnt": "0", **HERE},
        "module ipip is there, yet the kernel refuses links of its kind",
        "look into dmesg for the reason",
    ),
    "built in": (
        {BUILTIN: "kernel/net/ipv4/ipip.ko\n"},
        "module ipip is there, yet the kernel refuses links of its kind",
        "look into dmesg for the reason",
    ),
    "loading switched off": (
        {"proc/sys/kernel/modules_disabled": "1\n", **HERE},
        "module ipip is not loaded, and loading is switched off until reboot (kernel.modules_disabled=1)",
        "have it loaded at boot: echo ipip > /etc/modules-load.d/dsr-agent.conf, then reboot",
    ),
    "no modules for this kernel": (
        {"lib/modules/6.11.0-other/modules.dep": "kernel/net/ipv4/ipip.ko:\n"},
        f"module ipip is not loaded, and there are no modules on disk for the running kernel {RELEASE}",
        "reboot if the kernel was upgraded; in a container, load it on the host (modprobe ipip)",
    ),
    "blacklisted": (
        {"etc/modprobe.d/local.conf": "# not here\n\nblacklist ipip\n", **HERE},
        "module ipip is blacklisted in /etc/modprobe.d/local.conf, line 3",
        BLACKLISTED,
    ),
    "blacklisted by the distribution": (
        {"usr/lib/modprobe.d/hard.conf": "  blacklist   ipip  \n", **HERE},
        "module ipip is blacklisted in /usr/lib/modprobe.d/hard.conf, line 1",
        BLACKLISTED,
    ),
    "install false": (
        {"run/modprobe.d/x.conf": "install ipip /bin/false\n", **HERE},
        "module ipip is blacklisted in /run/modprobe.d/x.conf, line 1",
        BLACKLISTED,
    ),
    "install true": (
        {"etc/modprobe.d/x.conf": "install ipip /usr/bin/true # harden\n", **HERE},
        "module ipip is blacklisted in /etc/modprobe.d/x.conf, line 1",
        BLACKLISTED,
    ),
    "another one blacklisted": (
        {"etc/modprobe.d/x.conf": "blacklist ipip6\nblacklist xipip\ninstall ipip2 /bin/false\n", **HERE},
        "module ipip is on disk, yet could not be loaded",
        "try: modprobe ipip; dmesg tells the reason",
    ),
    "a file that is no configuration": (
        {"etc/modprobe.d/x.conf.rpmsave": "blacklist ipip\n", **HERE},
        "module ipip is on disk, yet could not be loaded",
        "try: modprobe ipip; dmesg tells the reason",
    ),
    "none in this kernel": (
        {DEP: "kernel/net/ipv4/ip_gre.ko:\n"},
        f"the running kernel {RELEASE} has no module ipip",
        "install the package with the extra modules of this kernel",
    ),
    "modules below usr": (
        {f"usr/lib/modules/{RELEASE}/modules.dep": "kernel/net/ipv4/ip_gre.ko:\n"},
        f"the running kernel {RELEASE} has no module ipip",
        "install the package with the extra modules of this kernel",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named_with_its_remedy(root: Root, cause: str) -> None:
    """The kernel answers the same for all of them."""
    files, problem, remedy = CAUSES[cause]

    error = root(files).diagnose("ipip")

    assert (error.problem, error.remedy, error.move) == (problem, remedy, "host")


@pytest.mark.parametrize("cause", CAUSES)
def test_what_keeps_it_from_being_loaded_is_known_before_that_is_tried(root: Root, cause: str) -> None:
    """Where the cause can be seen; a module that is on disk and not forbidden may load or not."""
    files, problem, _ = CAUSES[cause]
    modules = root(files)
    if modules.present(["ipip"]):
        return

    error = modules.obstacle("ipip")

    assert (error.problem if error else "module ipip is on disk, yet could not be loaded") == problem


@pytest.mark.parametrize("spelling", ["ip_gre", "ip-gre"])
def test_a_blacklist_may_spell_it_with_a_dash(root: Root, spelling: str) -> None:
    """modprobe takes both for the same."""
    error = root({"etc/modprobe.d/x.conf": f"blacklist {spelling}\n", **HERE}).diagnose("ip_gre")

    assert error.problem == "module ip_gre is blacklisted in /etc/modprobe.d/x.conf, line 1"


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", f"linux-modules-extra-{RELEASE}"),
        (
            "ID=debian\n",
            "linux-image-amd64 or linux-image-cloud-amd64 (or your architecture's), then reboot into it",
        ),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', f"kernel-modules-extra (kernel-modules-extra-{RELEASE})"),
        ("ID=fedora\n", f"kernel-modules-extra (kernel-modules-extra-{RELEASE})"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", f"linux-modules-extra-{RELEASE}"),
        ("nonsense", "the package with the extra modules of this kernel"),
    ],
)
def test_the_package_that_usually_carries_it(root: Root, release: str, package: str) -> None:
    """Per distribution."""
    error = root({DEP: "", "etc/os-release": release}).diagnose("ipip")

    assert error.remedy == f"install {package}"


def test_loading_is_quiet_where_there_is_no_modprobe(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container: the kernel's own request goes to the host's."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    asyncio.run(root({}).load("ipip"))


def test_loading_asks_modprobe_and_honours_the_blacklist(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quietly (-q), not what is blacklisted (-b), and never what looks like an option."""
    program = tmp_path / "modprobe"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    asyncio.run(root({}).load("ipip"))

    assert (tmp_path / "asked").read_text() == "-q -b -- ipip\n"


def test_loading_is_left_to_the_kernel_when_not_root(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating the link does it."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    asyncio.run(root({}).load("ipip"))
