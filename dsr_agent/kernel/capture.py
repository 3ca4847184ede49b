"""
A short look at what load balancers really send: the outer headers, as they reach this host's network cards.

Packet sockets see a packet before netfilter does, so also what a firewall of this host drops; what XDP or an ingress
filter of tc (or the network card itself) drops before is not seen. Another socket sees the UDP datagrams that leave.

Source: ``packet(7)``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from dataclasses import dataclass, field
from select import select

from dsr_agent.kernel import capture_filter
from dsr_agent.kernel.capture_filter import LEAVING, NO_CARDS, ROOM, TO_THIS_HOST, Instruction, Sought, attach
from dsr_agent.kernel.headers import CapturedPacket, Leaving, arriving, leaving
from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import NotPermitted

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_RCVBUFFORCE = 33

_ENOUGH = 2000  # packets that are looked at; a busy server gets as many in a millisecond, and they say the same
_BUFFER = 1 << 21
_UNFILTERED = 10_000  # more do not fit a buffer as the kernel makes it


@dataclass(frozen=True, slots=True)
class Captured:
    """All that was seen; *complete* is false if there was more than was looked at."""

    arrived: tuple[CapturedPacket, ...] = ()
    left: tuple[Leaving, ...] = ()
    complete: bool = True


@dataclass(slots=True)
class _Seen:
    arrived: list[CapturedPacket] = field(default_factory=list)
    left: dict[Leaving, None] = field(default_factory=dict)
    looked_at: int = 0


class Capture:
    """Sees packets from the moment that it is made. Needs CAP_NET_RAW, and says so: raises `NotPermitted`."""

    def __init__(self, sought: Sought) -> None:
        self._sockets: list[socket.socket] = []
        self._seen = _Seen()
        try:
            self._open(_ETH_P_IP, capture_filter.arriving(4, sought))
            self._open(_ETH_P_IPV6, capture_filter.arriving(6, sought))
            if sought.answered_from:
                self._open(_ETH_P_ALL, capture_filter.leaving(sought))
        except OSError as error:
            self.close()
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotPermitted(
                    f"what arrives cannot be looked at: the kernel says {error.strerror!r}",
                    "run as root or with CAP_NET_RAW",
                ) from None
            raise explain(error.errno or 0, "what arrives cannot be looked at") from None

    def _open(self, protocol: int, instructions: list[Instruction]) -> None:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(protocol))
        self._sockets.append(made)
        made.setblocking(False)
        attach(made, instructions)
        with contextlib.suppress(OSError):  # what got in before the filter was there
            for _ in range(_UNFILTERED):
                made.recv(0)
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def close(self) -> None:
        """Give the sockets back."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def watch(self, until: float) -> Captured:
        """Take what has come by *until* (`time.monotonic`), or until enough has been seen. Blocks."""
        while self._sockets and self._seen.looked_at < _ENOUGH and (left := until - time.monotonic()) > 0:
            for ready in select(self._sockets, [], [], left)[0]:
                self._take(ready)
        for each in self._sockets:  # what had come by then, on however busy a host this process was kept from looking
            self._take(each)
        complete = self._seen.looked_at < _ENOUGH
        return Captured(tuple(self._seen.arrived), tuple(self._seen.left), complete)

    def _take(self, ready: socket.socket) -> None:
        for _ in range(_ENOUGH):
            try:
                data, (link, _, direction, hardware, _) = ready.recvfrom(ROOM)
            except OSError:  # nothing more; or the link went down, which is another one's subject
                return
            if hardware in NO_CARDS or direction not in (TO_THIS_HOST, LEAVING):
                continue  # one that got in while the filter was being attached
            self._seen.looked_at += 1
            if direction == LEAVING:
                if found := leaving(link, data):
                    self._seen.left[found] = None
            elif outer := arriving(link, data):
                self._seen.arrived.append(outer)
