"""Sysctls over a made-up root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dsr_agent.kernel import sysctls
from dsr_agent.state.errors import Bug, NotPermitted
from dsr_agent.state.model import Sysctl, SysctlKey


def make(root: Path, path: str, text: str = "0\n") -> None:
    """Have the sysctl *path*."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_those_of_each_link_and_of_all_are_looked_at() -> None:
    """Both families; whether ``net/ipv6/conf/all/forwarding`` is there tells whether this host has IPv6."""
    paths = sysctls.paths_of(["dsr-ipip"])

    assert paths == [
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/conf/all/rp_filter",
        "net/ipv4/conf/all/forwarding",
        "net/ipv4/conf/all/arp_ignore",
        "net/ipv4/conf/all/arp_announce",
        "net/ipv4/conf/dsr-ipip/rp_filter",
        "net/ipv4/conf/dsr-ipip/forwarding",
        "net/ipv4/conf/dsr-ipip/arp_ignore",
        "net/ipv4/conf/dsr-ipip/arp_announce",
        "net/ipv6/conf/dsr-ipip/disable_ipv6",
        "net/ipv6/conf/dsr-ipip/forwarding",
        "net/ipv6/conf/dsr-ipip/addr_gen_mode",
    ]


def test_values_are_read_and_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    """Neither what does not exist nor what holds no number."""
    make(tmp_path, "net/ipv4/conf/dsr-ipip/rp_filter", "2\n")
    make(tmp_path, "net/ipv4/conf/dsr-ipip/forwarding", "many\n")

    found = sysctls.read(sysctls.paths_of(["dsr-ipip"]), tmp_path)

    assert found == {SysctlKey("net/ipv4/conf/dsr-ipip/rp_filter"): 2}


def test_a_link_with_a_dot_in_its_name(tmp_path: Path) -> None:
    """Paths have slashes, so that a VLAN's dot is part of its name."""
    make(tmp_path, "net/ipv4/conf/eth0.100/arp_ignore")

    assert sysctls.write("net/ipv4/conf/eth0.100/arp_ignore", 1, tmp_path) is None
    assert sysctls.read(["net/ipv4/conf/eth0.100/arp_ignore"], tmp_path) == {
        SysctlKey("net/ipv4/conf/eth0.100/arp_ignore"): 1
    }


def test_writing_what_does_not_exist_is_nothing_to_do(tmp_path: Path) -> None:
    """The link is gone, or has no IPv6; and no file is made."""
    assert sysctls.write("net/ipv4/conf/gone/rp_filter", 2, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (errno.EACCES, NotPermitted, "run as root or with CAP_NET_ADMIN"),
        (
            errno.EROFS,
            NotPermitted,
            "let the service write there (ReadWritePaths=/proc/sys/net, or ProtectKernelTunables=no)",
        ),
        (errno.EINVAL, Bug, ""),
    ],
)
def test_what_stands_in_the_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type, remedy: str
) -> None:
    """No right, a read-only /proc/sys (a sandbox), or a value that the kernel does not take."""

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("builtins.open", refuse)

    error = sysctls.write("net/ipv4/conf/dsr-ipip/rp_filter", 2, tmp_path)

    assert type(error) is kind
    assert error is not None
    assert error.problem.startswith("cannot set net/ipv4/conf/dsr-ipip/rp_filter to 2: ")
    assert error.remedy == remedy


@pytest.mark.parametrize(
    ("wanted", "satisfied"),
    [(Sysctl("x", 1), [1]), (Sysctl("x", 2), [2]), (Sysctl("x", 1, at_least=True), [1, 2, 8])],
)
def test_exactly_or_at_least(wanted: Sysctl, satisfied: list[int]) -> None:
    """What is not ours is only ever raised."""
    assert [value for value in (0, 1, 2, 8) if wanted.satisfied_by(value)] == satisfied
