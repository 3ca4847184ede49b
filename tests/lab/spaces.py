"""Network namespaces of this machine: making them, doing something inside one, reading and writing its sysctls."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def run(*command: str, given: str = "") -> str:
    """Run a command and give back what it printed; its complaint is the failure."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def ip(space: str, command: str) -> str:
    """``ip COMMAND`` in a namespace; the words of *command* are separated by spaces."""
    return run("ip", "-n", space, *command.split())


def ip_batch(space: str, lines: Iterable[str]) -> None:
    """Many ``ip`` commands in one process; in the first namespace if *space* is empty."""
    run("ip", *(["-n", space] if space else []), "-batch", "-", given="\n".join(lines) + "\n")


@contextmanager
def inside(space: str) -> Iterator[None]:
    """
    This thread is in the namespace: what it opens (sockets, files in /proc/sys/net) and starts belongs there.

    A socket stays in the namespace it was made in, so the thread can be back home before the socket is used.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{space}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(there)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(there)
        os.close(home)


def enter(descriptor: int) -> None:
    """This thread is in the network namespace of an open file of /proc or /run/netns."""
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def within(space: str, make: Callable[[], T]) -> T:
    """What *make* returns, called inside the namespace."""
    with inside(space):
        return make()


def udp_socket(space: str, family: int = socket.AF_INET) -> socket.socket:
    """A UDP socket of the namespace, with so much room that a slow reader loses nothing."""
    made = within(space, lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    return made


def tcp_socket(space: str, family: int = socket.AF_INET) -> socket.socket:
    """A TCP socket of the namespace."""
    return within(space, lambda: socket.socket(family, socket.SOCK_STREAM))


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def sysctl(space: str, path: str) -> str:
    """The value of ``/proc/sys/net/PATH`` as the namespace sees it."""
    return within(space, lambda: Path("/proc/sys/net", path).read_text().strip())


def set_sysctls(space: str, values: dict[str, int | str]) -> None:
    """Write ``/proc/sys/net/PATH`` for each path."""
    with inside(space):
        for path, value in values.items():
            Path("/proc/sys/net", path).write_text(f"{value}\n")


def create(names: Iterable[str], home: str = "") -> None:
    """Make the namespaces, with ``lo`` up in each, and give the one we are in the name *home*."""
    names = list(names)
    ip_batch("", [f"netns add {name}" for name in names])
    for name in names:
        ip(name, "link set lo up")
    if home:
        run("ip", "netns", "attach", home, str(os.getpid()))


def delete(names: Iterable[str]) -> None:
    """Remove those of the namespaces that are there."""
    there = [name for name in names if Path("/run/netns", name).exists()]
    if there:
        ip_batch("", [f"netns del {name}" for name in there])
