"""
The kernel's announcements, as they come: which socket, which groups, and what is done when some were lost.

An announcement only ever means *look at this again*. When the receive buffer overflows, the kernel says so once
(ENOBUFS) and what was dropped is unknown: the socket is replaced and everything is read back (facts A3).
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable, Iterator

from dsr_agent.kernel import netlink
from dsr_agent.kernel.netlink import Message

_GROUPS = {
    "link": 1,
    "ipv4 address": 5,
    "ipv4 route": 7,
    "ipv4 rule": 8,
    "ipv6 address": 9,
    "ipv4 netconf": 24,  # rp_filter and forwarding; the ARP sysctls are not announced (facts A2)
    "ipv6 netconf": 25,
}
_RECEIVE = 1 << 16
# What is taken at most, so that a storm of announcements cannot keep the program from everything else: in passing,
# and when somebody is about to rely on the copy that announcements keep current.
IN_PASSING = 2048
ALL = 1 << 20

# Room for a storm: 16,000 announcements overflow the default buffer, none of them this one (facts A3). The memory
# is only used while announcements wait.
RECEIVE_BUFFER = 32 << 20

_NETCONFA_IFINDEX = 1
_TABLE_LOCAL = 255


class Monitor:
    """
    The listening socket. *lost* counts the times that announcements were dropped.

    *protocol* and *groups* say what is listened to: routing, as above, unless they say otherwise.
    """

    def __init__(
        self, receive_buffer: int = RECEIVE_BUFFER, protocol: int = 0, groups: Iterable[int] = tuple(_GROUPS.values())
    ) -> None:
        self._receive_buffer = receive_buffer
        self._protocol = protocol
        self._groups = tuple(groups)
        self.lost = 0
        self._socket = self._open()

    def _open(self) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        opened = socket.socket(socket.AF_NETLINK, kind, self._protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, netlink.SO_RCVBUFFORCE, self._receive_buffer)
        except OSError:  # without CAP_NET_ADMIN (status, plan): the ordinary limit is enough for one look
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        opened.bind((0, 0))
        for group in self._groups:
            opened.setsockopt(netlink.SOL_NETLINK, netlink.NETLINK_ADD_MEMBERSHIP, group)
        return opened

    def fileno(self) -> int:
        """For the event loop to watch; another one after announcements were lost."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def drain(self, at_most: int, on_replace: Callable[[], None]) -> Iterator[Message]:
        """
        Everything that waits, without blocking, up to *at_most* datagrams.

        Calls *on_replace* when announcements were dropped and a new socket is listening.
        """
        for _ in range(at_most):
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                # Opened before the old one is closed: under the same number, nobody would notice that it is another.
                deaf, self._socket = self._socket, self._open()
                deaf.close()
                on_replace()
                return
            yield from netlink.messages(data)


def netconf_index(message: Message) -> int:
    """The index of the link whose sysctl changed; -1 is ``all``, -2 is ``default``."""
    for kind, value in netlink.attributes(message.body, 4):
        if kind == _NETCONFA_IFINDEX:
            return int.from_bytes(value, sys.byteorder, signed=True)
    return 0


def is_local_route(message: Message) -> bool:
    """Whether a route message is about the kernel's own table of local addresses, which follows addresses anyway."""
    return len(message.body) > 4 and message.body[4] == _TABLE_LOCAL
