"""The request socket over a made-up one: answers that are late, interrupted or lost."""

from __future__ import annotations

import errno
import socket as socket_module
import struct
from typing import Any

import pytest

from dsr_agent.kernel import netlink
from dsr_agent.kernel.netlink import Channel, Refusal


class Socket:
    """Answers every request with what was laid out for it."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self._answers = list(answers)
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        """A request."""
        self.sent.append(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """The next answer; without one, who may wait would wait for ever."""
        if not self._answers and flags & socket_module.MSG_DONTWAIT:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def channel(*answers: bytes | OSError) -> tuple[Channel, Socket]:
    """A channel over a made-up socket; its first request has sequence number 1."""
    made: Any = Channel.__new__(Channel)
    made._socket, made._sequence, made.sent = socket, _, _ = Socket(*answers), 0, 0
    return made, socket


def message(kind: int, sequence: int, body: bytes = b"\0" * 16, flags: int = 0) -> bytes:
    """One message."""
    return netlink.HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def answer(sequence: int, code: int = 0) -> bytes:
    """An acknowledgement, or a refusal."""
    return message(netlink.NLMSG_ERROR, sequence, struct.pack("=i", -code) + b"\0" * 16)


DONE = netlink.NLMSG_DONE
LINK = netlink.RTM_NEWLINK
INTERRUPTED = netlink.NLM_F_DUMP_INTERRUPTED
NO_ROOM = OSError(errno.ENOBUFS, "No buffer space available")


def test_a_dump_that_a_change_interrupted_is_read_again() -> None:
    """What was read half before and half after the change is thrown away."""
    asking, socket = channel(
        message(LINK, 1, b"a" * 16, INTERRUPTED) + message(DONE, 1, flags=INTERRUPTED),
        message(LINK, 2, b"b" * 16) + message(DONE, 2),
    )

    assert [found.body for found in asking.dump(netlink.RTM_GETLINK, b"")] == [b"b" * 16]
    assert len(socket.sent) == 2


def test_a_dump_that_is_interrupted_again_and_again_ends() -> None:
    """What was read last stands: the change was announced and will be looked at."""
    answers = [message(LINK, n, bytes([n]) * 16, INTERRUPTED) + message(DONE, n) for n in range(1, 20)]
    asking, socket = channel(*answers)

    [found] = asking.dump(netlink.RTM_GETLINK, b"")

    assert found.body == bytes([len(socket.sent)]) * 16
    assert len(socket.sent) < 19


def test_a_late_answer_to_something_else_is_stepped_over() -> None:
    """By its sequence number: in a dump, to a question, and to a batch."""
    asking, _ = channel(
        answer(77, 1) + message(LINK, 1, b"a" * 16) + message(DONE, 1),
        answer(1) + message(LINK, 2, b"b" * 16),
        message(LINK, 2) + answer(2, 5) + answer(3),
    )

    assert [found.body for found in asking.dump(netlink.RTM_GETLINK, b"")] == [b"a" * 16]
    assert asking.ask(netlink.RTM_GETLINK, b"").body == b"b" * 16
    assert asking.request([(netlink.RTM_NEWADDR, 0, b"")]) == [None]


def test_each_refusal_of_a_batch_is_about_its_own_request() -> None:
    """An acknowledgement is asked for the last one only; what is not answered was carried out."""
    asking, socket = channel(answer(2, errno.EEXIST), answer(3, errno.EPERM) + answer(4))

    answers = asking.request([(netlink.RTM_NEWADDR, netlink.NLM_F_CREATE, b"12345678")] * 4)

    assert answers == [None, Refusal(errno.EEXIST, ""), Refusal(errno.EPERM, ""), None]
    sent = list(netlink.messages(socket.sent[0]))
    assert [bool(found.flags & netlink.NLM_F_ACK) for found in sent] == [False, False, False, True]
    assert asking.sent == 4


def test_answers_that_were_dropped_do_not_keep_a_batch_waiting() -> None:
    """The requests were carried out; read-back tells how."""
    asking, _ = channel(NO_ROOM, answer(2))

    assert asking.request([(netlink.RTM_NEWADDR, 0, b"")] * 2) == [None, None]


def test_the_last_answer_is_not_waited_for_once_answers_were_dropped() -> None:
    """It is the first for which there was no room."""
    asking, _ = channel(NO_ROOM, answer(1, errno.EPERM))

    assert asking.request([(netlink.RTM_NEWADDR, 0, b"")] * 3) == [Refusal(errno.EPERM, ""), None, None]


@pytest.mark.parametrize("verb", ["dump", "ask"])
def test_a_refused_look_raises_with_the_errno(verb: str) -> None:
    """It is for the loop to say so and to try again."""
    asking, _ = channel(answer(1, errno.ENOMEM))

    with pytest.raises(OSError, match="Cannot allocate memory") as raised:
        getattr(asking, verb)(netlink.RTM_GETLINK, b"")

    assert raised.value.errno == errno.ENOMEM


def test_a_dump_that_is_refused_at_its_end_is_refused() -> None:
    """As the kernel does it for sockets of a protocol that it was built without."""
    refusal = struct.pack("=IHHIIi", 20, netlink.NLMSG_DONE, 2, 1, 0, -errno.ENOENT)
    made, _ = channel(refusal)
    with pytest.raises(FileNotFoundError):
        made.dump(20, b"")
