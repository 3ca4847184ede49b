"""
Who listens on this host, by hand: TCP sockets that listen, and UDP sockets that are bound and take from anybody.

One dump for each protocol and version of IP, however many VIPs there are. By hand, because pyroute2's `DiagSocket`
calls its own signature unfinished, costs the import of all of pyroute2 (facts A7), and decodes each message as slowly
as its other dumps (facts A1): this is asked every second.

Sources: ``include/uapi/linux/inet_diag.h``; ``net/ipv4/inet_diag.c`` tells `INET_DIAG_SKV6ONLY` of IPv6 sockets that
listen or are not connected, without being asked for it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Container, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from dsr_agent.kernel.links import name_of
from dsr_agent.kernel.netlink import NETLINK_SOCK_DIAG, Channel, Message, attributes
from dsr_agent.state.model import Ip

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states; which socket: any
# Family, state, timer, retransmissions; ports, source, destination; interface, cookie; the rest is not asked for.
_ANSWER = struct.Struct("=BBxx2s2s16s16sI8x20x")
_INET_DIAG_SKV6ONLY = 11

# A UDP socket that is connected takes from its peer only; unconnected ones are in the state "closed".
_TCP_CLOSE, _TCP_LISTEN = 7, 10
_PROTOCOLS = {"tcp": (socket.IPPROTO_TCP, _TCP_LISTEN), "udp": (socket.IPPROTO_UDP, _TCP_CLOSE)}


class Socket(NamedTuple):
    """
    One socket that takes requests: of which transport ("tcp", "udp"), and where.

    *only6*: takes no IPv4, although it is bound to every address. *device* is the one that it is bound to, if it is.
    """

    transport: str
    port: int
    ip: Ip
    only6: bool = False
    device: str = ""

    @property
    def is_wildcard(self) -> bool:
        """Whether it is bound to every address."""
        return self.ip.is_unspecified

    def takes(self, ip: Ip) -> bool:
        """Whether what is sent to *ip* can reach it, devices left aside."""
        if not self.is_wildcard:
            return self.ip == ip
        return self.ip.version == ip.version or (self.ip.version == 6 and not self.only6)

    def __str__(self) -> str:
        ip = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        device = f"%{self.device}" if self.device else ""
        return f"{ip}{device}:{self.port}" + (" (IPv6 only)" if self.only6 else "")


class SocketTable:
    """Asks the kernel. Opened by the first question; not for two threads at once."""

    def __init__(self) -> None:
        self._channel: Channel | None = None

    def close(self) -> None:
        """Give the socket back."""
        if self._channel:
            self._channel.close()

    def read(self, transports: Iterable[str], ports: Container[int], *, ipv4: bool) -> list[Socket]:
        """
        Those of *transports* on *ports*; *ipv4*: also those that take nothing but IPv4.

        Raises `OSError` where the kernel does not tell (ENOENT: it was built without, or a module is missing).
        """
        if self._channel is None:
            self._channel = Channel(NETLINK_SOCK_DIAG)
        found: list[Socket] = []
        for transport in transports:
            protocol, state = _PROTOCOLS[transport]
            for family in (socket.AF_INET, socket.AF_INET6) if ipv4 else (socket.AF_INET6,):
                try:
                    answers = self._channel.dump(_SOCK_DIAG_BY_FAMILY, _REQUEST.pack(family, protocol, 0, 1 << state))
                except OSError as error:
                    if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
                        continue  # a kernel without IPv6
                    raise
                found += [one for message in answers if (one := parse(message, transport)) and one.port in ports]
        return found


def parse(message: Message, transport: str) -> Socket | None:
    """Read one answer; None if it is not one."""
    if message.type != _SOCK_DIAG_BY_FAMILY or len(message.body) < _ANSWER.size:
        return None
    family, _, port, _, source, _, index = _ANSWER.unpack_from(message.body)
    ip: Ip
    if family == socket.AF_INET:
        ip = IPv4Address(source[:4])
    else:
        six = IPv6Address(source)
        ip = six if six.ipv4_mapped is None else six.ipv4_mapped
    # The kernel sets it as well for sockets that are bound to one IPv6 address, where it means nothing.
    only6 = ip.is_unspecified and any(
        kind == _INET_DIAG_SKV6ONLY and any(value) for kind, value in attributes(message.body, _ANSWER.size)
    )
    return Socket(transport, int.from_bytes(port, "big"), ip, only6, name_of(index) if index else "")
