"""
Into the network namespace that the file names, before anything is asked of the kernel.

Sources: setns(2); ``ip netns`` keeps a namespace as a file in ``/run/netns`` (ip-netns(8)).
"""

from __future__ import annotations

import ctypes
import errno
import os
from enum import Enum, auto
from pathlib import Path

from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import DsrError, NotPermitted, NotYet

NAMED = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


class Name(Enum):
    """What has become of the name of a namespace."""

    KEPT = auto()
    GONE = auto()
    TAKEN = auto()


def path_of(netns: str) -> Path:
    """The file of a namespace: *netns* is its name, or that file itself."""
    return NAMED / netns  # a path from the root stays what it is


def enter(netns: str | None) -> None:
    """
    Have this process work in the namespace *netns*; nothing if it does already, or if there is no name.

    To be called before there are sockets and threads: the kernel moves the calling thread, which those that it starts
    afterwards follow. Raises `DsrError`, with what to do.
    """
    if netns is None:
        return
    path = path_of(netns)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotYet(f"network namespace {netns} is not there (yet): no {path}", _made(netns)) from None
    except PermissionError:
        raise NotPermitted(f"cannot open network namespace {path}", "run as root") from None
    except OSError as error:
        raise explain(error.errno or 0, f"cannot open network namespace {path}") from None
    try:
        if os.path.samestat(os.fstat(there), os.stat(_OWN)):
            return
        if ctypes.CDLL(None, use_errno=True).setns(there, _CLONE_NEWNET) != 0:
            raise _refused(netns, path, ctypes.get_errno())
    finally:
        os.close(there)


def name_of_ours(netns: str) -> Name:
    """Whether *netns*, which this process entered, is still what its namespace is called, or another one is."""
    try:
        there, ours = path_of(netns).stat(), os.stat(_OWN)
    except OSError:
        return Name.GONE
    if there.st_dev != ours.st_dev:  # "ip netns add" makes an ordinary file first, and mounts the namespace over it
        return Name.GONE
    return Name.KEPT if there.st_ino == ours.st_ino else Name.TAKEN


def _made(netns: str) -> str:
    return "correct netns" if "/" in netns else f"ip netns add {netns}, or correct netns in [agent]"


def _refused(netns: str, path: Path, code: int) -> DsrError:
    if code == errno.EINVAL:
        return NotYet(f"{path} is no network namespace (any more)", _made(netns))
    if code == errno.EPERM:
        return NotPermitted(
            f"cannot enter network namespace {netns}: that takes CAP_SYS_ADMIN",
            f"have systemd do it (systemctl edit dsr-agent: [Service] NetworkNamespacePath={path}), or run as root",
        )
    return explain(code, f"cannot enter network namespace {netns}")
