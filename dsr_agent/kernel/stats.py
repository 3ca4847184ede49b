"""
What links have counted, by hand: one short question for each link that is asked about.

Sources: ``include/uapi/linux/if_link.h`` (struct rtnl_link_stats64), ``net/ipv4/ip_tunnel.c`` for what a tunnel counts
where: a wrong GRE checksum as crc, a wrong sequence as fifo, contradicting ECN bits as frame (peers K5).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dsr_agent.kernel.netlink import RTM_GETLINK, RTM_NEWLINK, Channel, attribute, attributes

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_STATS64 = struct.Struct("=16Q")  # the kernel's is longer, and grows at its end
_IFLA_IFNAME, _IFLA_STATS64 = 3, 23


class Received(NamedTuple):
    """What a link has received, and what it has refused and why. *errors* holds all but the dropped."""

    packets: int = 0
    bytes: int = 0
    errors: int = 0
    dropped: int = 0
    length: int = 0
    crc: int = 0
    frame: int = 0
    fifo: int = 0

    def plus(self, other: Received) -> Received:
        """The sum, number by number."""
        return Received(*(a + b for a, b in zip(self, other, strict=True)))

    def less(self, other: Received) -> Received:
        """What has been counted since *other*; all of this if the counting began anew in between."""
        found = [a - b for a, b in zip(self, other, strict=True)]
        return self if min(found) < 0 else Received(*found)


class Counted(NamedTuple):
    """The counters of a link, which is told from its namesakes by its index."""

    name: str
    ifindex: int
    received: Received


def parse(body: bytes) -> Counted:
    """Read one link message."""
    _, _, index, _, _ = _IFINFOMSG.unpack_from(body)
    name = ""
    received = Received()
    for kind, value in attributes(body, 16):
        if kind == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == _IFLA_STATS64 and len(value) >= _STATS64.size:
            n = _STATS64.unpack_from(value)
            received = Received(n[0], n[2], n[4], n[6], n[10], n[12], n[13], n[14])
    return Counted(name, index, received)


def read(channel: Channel, names: Iterable[str]) -> dict[str, Counted]:
    """The counters of those links of *names* that are there."""
    found = {}
    for name in names:
        body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        try:
            message = channel.ask(RTM_GETLINK, body)
        except OSError:
            continue  # gone, or not there yet
        if message.type == RTM_NEWLINK:
            counted = parse(message.body)
            found[counted.name] = counted
    return found


# --- what the host has counted ----------------------------------------------------------------------------------------


def protocols(root: Path) -> dict[tuple[str, str], int]:
    """The counters of ``/proc/net/snmp`` and ``/proc/net/netstat``, by protocol and name; those that can be read."""
    found: dict[tuple[str, str], int] = {}
    for file in ("snmp", "netstat"):
        try:
            lines = (root / "proc/net" / file).read_text("ascii", "replace").splitlines()
        except OSError:
            continue
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            protocol, _, rest = names.partition(":")
            numbers = values.partition(":")[2].split()
            for name, number in zip(rest.split(), numbers, strict=False):
                if number.isdecimal():
                    found[protocol, name] = int(number)
    return found


def everything(root: Path) -> dict[str, int]:
    """The same by their names in one word (``TcpExtIPReversePathFilter``), and those of IPv6 (``Ip6InDiscards``)."""
    found = {f"{protocol}{name}": value for (protocol, name), value in protocols(root).items()}
    try:
        lines = (root / "proc/net/snmp6").read_text("ascii", "replace").splitlines()
    except OSError:
        return found
    for name, value in (line.split() for line in lines if len(line.split()) == 2):
        if value.isdecimal():
            found[name] = int(value)
    return found
