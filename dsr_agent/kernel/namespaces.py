"""
Who listens in other network namespaces of this host, in containers above all: there the VIP's requests do not come.

What each process sees in its ``/proc/PID/net`` is asked for, once for each namespace. Needs root; without, nothing is
found, and that says nothing.

Source: ``Documentation/networking/proc_net_tcp.rst`` (state 0A is listening, 07 is a UDP socket that is not connected).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_STATES = {"tcp": "0A", "udp": "07"}
_AT_MOST = 500  # namespaces


class Elsewhere(NamedTuple):
    """A service that somebody serves in another namespace; *process* is one that lives there."""

    service: str
    process: str


def listening(services: Collection[str], root: Path = Path("/")) -> dict[str, Elsewhere]:
    """Of *services* ("udp/1812"), those that somebody serves elsewhere."""
    found: dict[str, Elsewhere] = {}
    for process in _one_of_each(root / "proc"):
        for service in services:
            transport, _, port = service.partition("/")
            if service not in found and _listens(process / "net", transport, int(port)):
                found[service] = Elsewhere(service, f"{_command(process)} (process {process.name})")
    return found


def _one_of_each(proc: Path) -> Iterator[Path]:
    """A process of each network namespace but this one."""
    try:
        known = {os.readlink(proc / "thread-self/ns/net")}
    except OSError:
        return
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            namespace = os.readlink(process / "ns/net")
        except OSError:
            continue  # gone, or not ours to look into
        if namespace not in known:
            known.add(namespace)
            yield process
        if len(known) > _AT_MOST:
            return


def _listens(net: Path, transport: str, port: int) -> bool:
    for name in (transport, f"{transport}6"):
        try:
            lines = (net / name).read_text("ascii", "replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 3 and words[3] == _STATES[transport] and words[1].endswith(f":{port:04X}"):
                return True
    return False


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "somebody"
