"""
Netlink by hand, for what must be cheap: thousands of addresses, dumps of them, and announcements.

A message built by a general library costs 15 to 40 times the system call that carries it (facts A1), so addresses are
packed here with `struct`, at most 256 to a send with an acknowledgement asked for the last only: errors are answered
in any case and carry the sequence number of what they refuse. The kernel works while the send call runs, so every
answer is there when it returns, and nothing here waits.

Sources: ``include/uapi/linux/netlink.h``, ``net/netlink/af_netlink.c``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_NETFILTER = 0, 4, 12

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTERRUPTED = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWNETCONF, RTM_DELNETCONF = 80, 81

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHECK = 12
SO_RCVBUFFORCE = 33

_NLMSGERR_ATTR_MSG = 1

# What comes before the attributes of each type.
_LEAST = {
    NLMSG_ERROR: 20,
    **dict.fromkeys((RTM_NEWLINK, RTM_DELLINK), 16),
    **dict.fromkeys((RTM_NEWADDR, RTM_DELADDR), 8),
    **dict.fromkeys((RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE), 12),
    **dict.fromkeys((RTM_NEWNETCONF, RTM_DELNETCONF), 4),
}

BATCH = 256  # 300 acknowledged messages fit the default receive buffer, 500 do not (facts A1)
_DUMP_BUFFER = 1 << 18
_DUMP_TRIES = 8


class Message(NamedTuple):
    """One netlink message: what it is, who asked for it (netlink port), and its body."""

    type: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Refusal(NamedTuple):
    """The kernel's answer to a request it does not carry out."""

    errno: int
    text: str

    def __str__(self) -> str:
        return self.text or os.strerror(self.errno)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded as netlink wants it."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """
    Walk the attributes of *body* from *offset*: kind without flag bits, and value.

    A malformed rest ends the walk: the kernel does not send any, and half a message is better than none.
    """
    end = len(body)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & 0x3FFF, body[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def number(value: bytes) -> int:
    """The value of an attribute that holds a number, in this host's order, however long it is."""
    return int.from_bytes(value, sys.byteorder)


def messages(data: bytes) -> Iterator[Message]:
    """Split one datagram into its messages; one that is too short for what it says it is, is left out."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        if length >= 16 + _LEAST.get(kind, 0):
            yield Message(kind, flags, sequence, port, data[offset + 16 : offset + length])
        offset += (length + 3) & ~3


def refusal(message: Message) -> Refusal:
    """Read an NLMSG_ERROR: errno (0 is an acknowledgement) and the kernel's own text, if it sent one."""
    code = -_ERROR.unpack_from(message.body)[0]
    text = ""
    if message.flags & NLM_F_ACK_TLVS:
        echoed = 16 if message.flags & NLM_F_CAPPED else HEADER.unpack_from(message.body, 4)[0]
        for kind, value in attributes(message.body, 4 + ((echoed + 3) & ~3)):
            if kind == _NLMSGERR_ATTR_MSG:
                text = value.rstrip(b"\0").decode("utf-8", "replace")
    return Refusal(code, text)


class Channel:
    """A socket for requests: dumps, and batches that are answered one by one. *sent* counts messages."""

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, 0))
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHECK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self.port: int = self._socket.getsockname()[0]
        self.sent = 0
        self._sequence = 0

    def close(self) -> None:
        """Give the socket back; closing twice is fine."""
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """
        Everything of one kind.

        A dump that the kernel marks as interrupted by a change is read again, a few times; then what was read last
        stands, because the change was announced and will be looked at.

        Raises `OSError` when the kernel refuses.
        """
        found: list[Message] = []
        for _ in range(_DUMP_TRIES):
            found, interrupted = self._dump_once(kind, body)
            if not interrupted:
                break
        return found

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[Message], bool]:
        self._sequence += 1
        self._socket.send(HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0) + body)
        self.sent += 1
        found: list[Message] = []
        interrupted = False
        while True:
            for message in messages(self._socket.recv(_DUMP_BUFFER)):
                if message.sequence != self._sequence:
                    continue
                interrupted |= bool(message.flags & NLM_F_DUMP_INTERRUPTED)
                if message.type == NLMSG_DONE:
                    if (code := -_ERROR.unpack_from(message.body.ljust(4, b"\0"))[0]) > 0:
                        raise OSError(code, os.strerror(code))  # where a dump has begun, this is how it is refused
                    return found, interrupted
                if message.type == NLMSG_ERROR:
                    refused = refusal(message)
                    raise OSError(refused.errno, str(refused))
                found.append(message)

    def ask(self, kind: int, body: bytes) -> Message:
        """One question with one answer. Raises `OSError` when the kernel refuses."""
        self._sequence += 1
        self._socket.send(HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, self._sequence, 0) + body)
        self.sent += 1
        while True:
            for message in messages(self._socket.recv(_DUMP_BUFFER)):
                if message.sequence != self._sequence:
                    continue
                if message.type == NLMSG_ERROR:
                    refused = refusal(message)
                    raise OSError(refused.errno, str(refused))
                return message

    def request(self, batch: Sequence[tuple[int, int, bytes]]) -> list[Refusal | None]:
        """
        Send up to `BATCH` requests (type, flags, body) at once; for each, None or why it was refused.

        Raises `OSError` when the whole batch could not be sent.
        """
        first = self._sequence + 1
        parts = []
        for kind, flags, body in batch:
            self._sequence += 1
            parts.append(HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0) + body)
        last = bytearray(parts[-1])
        HEADER.pack_into(last, 0, len(last), batch[-1][0], NLM_F_REQUEST | NLM_F_ACK | batch[-1][1], self._sequence, 0)
        parts[-1] = bytes(last)
        self._socket.send(b"".join(parts))
        self.sent += len(parts)
        answers: list[Refusal | None] = [None] * len(batch)
        waiting = 0
        while True:
            try:
                data = self._socket.recv(_DUMP_BUFFER, waiting)
            except BlockingIOError:
                return answers
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Some answers were dropped, the last one first of all: the kernel carries a batch out while it is sent
                # (netlink_rcv_skb), so all that is to come is there. What was done, the read-back will tell.
                waiting = socket.MSG_DONTWAIT
                continue
            for message in messages(data):
                if message.type != NLMSG_ERROR or not first <= message.sequence <= self._sequence:
                    continue
                answer = refusal(message)
                answers[message.sequence - first] = answer if answer.errno else None
                if message.sequence == self._sequence:
                    return answers
