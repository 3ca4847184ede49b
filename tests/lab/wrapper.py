"""A balancer that wraps in UDP as it is told, byte by byte: a TUN device, and a socket that sends what comes out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.lab.spaces import inside, ip, run, set_sysctls, udp_socket
from tests.lab.world import BALANCER

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_IP_MTU_DISCOVER, _DONT = 10, 0

Head = Callable[[int], bytes]
"""What is put before a packet of a version of IP, behind the UDP header."""


def nothing(version: int) -> bytes:
    """FOU: the packet itself."""
    return b""


def gue(fields: bytes = b"", flags: int = 0) -> Head:
    """GUE with *fields*, which make whole words."""
    return lambda version: struct.pack(">BBH", len(fields) // 4, {4: 4, 6: 41}[version], flags) + fields


class Wrapper:
    """Sends what the balancer routes to its device *name* to a port of a real server. A context manager."""

    def __init__(self, name: str, server: str, port: int, head: Head) -> None:
        self.name = name
        self._to = (server, port)
        self._head = head

    def __enter__(self) -> Self:
        _need_tun()
        with inside(BALANCER):
            self._device = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self._device, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), _IFF_TUN | _IFF_NO_PI))
        self._socket = udp_socket(BALANCER, socket.AF_INET6 if ":" in self._to[0] else socket.AF_INET)
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DONT)
        ip(BALANCER, f"link set {self.name} up mtu 1400")
        set_sysctls(BALANCER, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        ip(BALANCER, f"link del {self.name}")  # which wakes the reader
        self._thread.join(5)
        os.close(self._device)
        self._socket.close()

    def _work(self) -> None:
        while True:
            try:
                packet = os.read(self._device, 1 << 16)
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._socket.sendto(self._head(packet[0] >> 4) + packet, self._to)


def _need_tun() -> None:
    """The device file comes with the module; where /dev is not the kernel's own, it is made."""
    run("modprobe", "tun")
    file = Path("/dev/net/tun")
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        os.mknod(file, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
