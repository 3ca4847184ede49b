"""
A balancer that wraps as it is told, byte by byte: a TUN device, and a packet socket that sends what is made of it.

No kernel touches the outer header, so it may be from any address and have every bit as a vendor's device writes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.lab.forge import ETH_IP, ETH_IP6
from tests.lab.spaces import inside, ip, run, set_sysctls, within
from tests.lab.world import BALANCER, ROUTER

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

Wrap = Callable[[bytes], bytes]
"""The packet that is sent for a packet; empty if there is none."""


class Wrapper:
    """Sends what the balancer routes to its device *name*, made into something else by *wrap*. A context manager."""

    def __init__(self, name: str, wrap: Wrap) -> None:
        self.name = name
        self._wrap = wrap

    def __enter__(self) -> Self:
        _need_tun()
        with inside(BALANCER):
            self._device = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self._device, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), _IFF_TUN | _IFF_NO_PI))
        self._socket = within(BALANCER, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        self._router = bytes.fromhex(json.loads(ip(ROUTER, "-j link show to-balancer"))[0]["address"].replace(":", ""))
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
            whole = self._wrap(packet)
            if not whole:
                continue
            kind = ETH_IP if whole[0] >> 4 == 4 else ETH_IP6
            self._socket.sendto(whole, ("eth0", kind, 0, 0, self._router))


def _need_tun() -> None:
    """The device file comes with the module; where /dev is not the kernel's own, it is made."""
    run("modprobe", "tun")
    file = Path("/dev/net/tun")
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        os.mknod(file, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
