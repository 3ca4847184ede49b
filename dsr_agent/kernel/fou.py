"""
UDP ports at which the kernel takes packets out of UDP, over generic netlink (``ip fou``), by hand: pyroute2 has none.

Sources: ``include/uapi/linux/fou.h``, ``net/ipv4/fou_core.c``, ``include/uapi/linux/genetlink.h``. The kernel announces
nothing about them (the family has no multicast group), so they are read when somebody looks.

Our mark is the flag "remote checksums are made whole" (FOU_ATTR_REMCSUM_NOPARTIAL): nobody sets it by chance, because
``ip fou`` has no word for it; the kernel tells it back; and all it does is that a checksum which the sender left to be
worked out is worked out here instead of later.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from dsr_agent.kernel.links import index_of, name_of
from dsr_agent.kernel.netlink import NLM_F_ACK, Channel, attribute, attributes, number
from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import DsrError, Foreign, NotYet, Unsupported
from dsr_agent.state.port_actions import AddPort, PortAction
from dsr_agent.state.ports import PortKey, UdpPort

NETLINK_GENERIC = 16

_GENL = struct.Struct("=BBxx")  # command, version
_ID_CTRL, _CMD_GETFAMILY, _ATTR_FAMILY_ID, _ATTR_FAMILY_NAME = 16, 3, 1, 2

_VERSION = 1
_CMD_ADD, _CMD_DEL, _CMD_GET = 1, 2, 3
_PORT, _AF, _PROTOCOL, _TYPE, _NOPARTIAL, _LOCAL_V4, _LOCAL_V6, _PEER_V4, _PEER_V6, _PEER_PORT, _IFINDEX = range(1, 12)
_TYPE_GUE = 2

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Ports:
    """The ports of this network namespace. The socket is opened when it is first needed."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._family = 0

    def close(self) -> None:
        """Give the socket back."""
        if self._channel:
            self._channel.close()
            self._channel = None

    def read(self) -> frozenset[UdpPort]:
        """
        All of them; none where the kernel tells us nothing.

        Worth asking only where the module is there. Unlike that of a link, a request for it does not bring it.
        """
        try:
            channel, family = self._open()
            found = channel.dump(family, _GENL.pack(_CMD_GET, _VERSION))
        except OSError:
            self._family = 0  # the module may have gone, and come back under another number
            return frozenset()
        return frozenset(parse(message.body) for message in found)

    def write(self, action: PortAction) -> DsrError | None:
        """Add or delete a port; what stands in the way, or None. There already, and gone already, is success."""
        add = isinstance(action, AddPort)
        try:
            body = _GENL.pack(_CMD_ADD if add else _CMD_DEL, _VERSION) + described(action.port, marked=add)
        except OSError:  # with its VRF the port has gone
            return NotYet(f"cannot {action}: {action.port.device} is not there (yet)") if add else None
        refused = None
        for _ in range(2):
            try:
                channel, family = self._open()
            except OSError as error:
                return _no_family(error.errno or 0) if add else None
            [refused] = channel.request([(family, NLM_F_ACK, body)])
            if refused is None or refused.errno != errno.ENOENT:
                break
            self._family = 0  # the module may have gone, and come back under another number
        if refused is None or (not add and refused.errno in (errno.ENOENT, errno.EINVAL)):
            return None
        if refused.errno in (errno.EADDRINUSE, errno.EALREADY) and any(p.serves(action.port) for p in self.read()):
            return None
        return _explain(action, refused.errno, refused.text)

    def _open(self) -> tuple[Channel, int]:
        if self._channel is None:
            self._channel = Channel(NETLINK_GENERIC)
        if not self._family:
            body = _GENL.pack(_CMD_GETFAMILY, 1) + attribute(_ATTR_FAMILY_NAME, b"fou\0")
            answer = self._channel.ask(_ID_CTRL, body)
            said = dict(attributes(answer.body, _GENL.size))
            self._family = number(said[_ATTR_FAMILY_ID])
        return self._channel, self._family


def described(port: PortKey, *, marked: bool) -> bytes:
    """The attributes of a port of ours."""
    return b"".join(_attributes(port, marked=marked))


def _attributes(port: PortKey, *, marked: bool) -> Iterator[bytes]:
    yield attribute(_PORT, struct.pack(">H", port.number))
    yield attribute(_AF, bytes([_FAMILIES[port.version]]))
    if marked:
        yield attribute(_TYPE, bytes([_TYPE_GUE]))
        yield attribute(_NOPARTIAL, b"")
    if port.local:
        yield attribute(_LOCAL_V4 if port.version == 4 else _LOCAL_V6, port.local.packed)
    if port.device:
        yield attribute(_IFINDEX, struct.pack("=i", index_of(port.device)))


def parse(body: bytes) -> UdpPort:
    """Read one port."""
    said = dict(attributes(body, _GENL.size))
    version = 6 if said.get(_AF) == bytes([socket.AF_INET6]) else 4
    local, index = _ip(said.get(_LOCAL_V4), said.get(_LOCAL_V6)), number(said.get(_IFINDEX, b""))
    key = PortKey(int.from_bytes(said.get(_PORT, b""), "big"), version, local, name_of(index) if index else "")
    narrow = any(any(said.get(kind, b"")) for kind in (_PEER_V4, _PEER_V6, _PEER_PORT))
    protocol = number(said.get(_PROTOCOL, b""))
    gue = said.get(_TYPE) == bytes([_TYPE_GUE])
    return UdpPort(key, gue, 0 if gue else protocol, narrow, ours=gue and _NOPARTIAL in said)


def _ip(four: bytes | None, six: bytes | None) -> IPv4Address | IPv6Address | None:
    if four is not None and any(four):
        return IPv4Address(four)
    return IPv6Address(six) if six is not None and any(six) else None


def _no_family(code: int) -> DsrError:
    if code == errno.ENOENT:
        return Unsupported(
            "this kernel does not take packets out of UDP: module fou is not there",
            "have it loaded at boot: echo fou > /etc/modules-load.d/dsr-agent.conf, or install the package that has it",
        )
    return explain(code, "cannot ask the kernel about module fou")


def _explain(action: PortAction, code: int, text: str) -> DsrError | None:
    if code in (errno.EADDRINUSE, errno.EALREADY):
        return Foreign(
            f"cannot {action}: another program has that port",
            f"ss -lnup sport = {action.port.number} says which, or ip fou show; stop it, or write another port",
        )
    if code == errno.EADDRNOTAVAIL:
        return NotYet(f"cannot {action}: that address is not on this host (yet)")
    return explain(code, f"cannot {action}", text)
