"""
Into the network namespace that the file names, before anything is asked of the kernel.

Sources: setns(2); ``ip netns`` keeps a namespace as a file in ``/run/netns`` (ip-netns(8)).
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import DsrError, NotPermitted, NotYet

NAMED = Path("/run/netns")

_CLONE_NEWNET = 0x40000000


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
        if os.path.samestat(os.fstat(there), os.stat("/proc/thread-self/ns/net")):
            return
        if ctypes.CDLL(None, use_errno=True).setns(there, _CLONE_NEWNET) != 0:
            raise _refused(netns, path, ctypes.get_errno())
    finally:
        os.close(there)


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
