"""
Who did it: the process behind a netlink port, as far as it can still be known.

The kernel names the port of whoever changed an address, not of who changed a link or a sysctl (facts A5). A port
usually is its process's id; a library that opens several sockets adds bits above it. The second socket of a process
that leaves the choice to the kernel has a negative number that says nothing (``netlink_autobind`` in
``net/netlink/af_netlink.c``). ``ip`` has mostly ended by the time anybody looks.
"""

from __future__ import annotations

import os
from pathlib import Path

_PID_BITS, _NEGATIVE = 0x3FFFFF, 1 << 31


def who(port: int, root: Path) -> str:
    """The process that holds netlink port *port*, in words; empty if nothing is known."""
    inode = _inode(port, root)
    pid = 0 if port & _NEGATIVE else port & _PID_BITS
    if inode and not (pid and _holds(root / "proc" / str(pid), inode)):
        pid = next((int(entry.name) for entry in _processes(root) if _holds(entry, inode)), pid)
    if not pid:
        return ""
    try:
        name = (root / "proc" / str(pid) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return f"process {pid}, which has ended"
    return f"{name} (process {pid})" if inode else f"process {pid}, which has ended"


def _inode(port: int, root: Path) -> str:
    """The inode of the socket with netlink port *port*: columns 3 and 10 of ``/proc/net/netlink``."""
    try:
        lines = (root / "proc/net/netlink").read_text("ascii", "replace").splitlines()
    except OSError:
        return ""
    for line in lines[1:]:
        columns = line.split()
        if len(columns) >= 10 and columns[1] == "0" and columns[2] == str(port):
            return columns[9]
    return ""


def _processes(root: Path) -> list[Path]:
    return [entry for entry in (root / "proc").iterdir() if entry.name.isdigit()]


def _holds(process: Path, inode: str) -> bool:
    """Whether *process* has the socket open; without the right to look, no."""
    try:
        for handle in (process / "fd").iterdir():
            if os.readlink(handle) == f"socket:[{inode}]":
                return True
    except OSError:
        return False
    return False
