"""
Traffic to a VIP, with every packet accounted for.

`Echo` answers on a real server, and says in the answer which client address it saw. `Stream` sends numbered UDP
packets from the client at a steady pace and knows of each whether it was answered, from where, and how often.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.lab.spaces import family_of, tcp_socket, udp_socket
from tests.lab.world import CLIENT, CLIENT_IP, CLIENT_IP6

_NUMBER = struct.Struct("=I")
_LENGTH = struct.Struct("=Q")
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_CHUNK = 1 << 16

# Waiting costs nothing where all is well, and a busy host may let everything stand still for seconds.
_PATIENCE = 30.0
# Looks without another answer until what is missing counts as lost: with the last one answered, and without. Looks and
# not seconds, for while a machine stands still nobody could have answered.
_LOOK, _LATE, _VERY_LATE = 0.01, 30, 150


class Echo:
    """
    A server on a real server, on one VIP and port, TCP and UDP; bound to a device, if one is named.

    UDP: the packet comes back with the client's address and the server's name behind it. TCP: a line with these two,
    then what the client sends (its length first) comes back.
    """

    def __init__(self, space: str, vip: str, port: int, device: str = "") -> None:
        family = family_of(vip)
        self._name = space
        self._udp = udp_socket(space, family)
        self._tcp = tcp_socket(space, family)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for opened in (self._udp, self._tcp):  # a real service starts before its VIP is there, too
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if device:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            opened.bind((vip, port))
        self._tcp.listen(128)
        self._closing = False
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._datagrams, self._connections)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._closing = True
        for opened in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)  # wakes whoever waits on it
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    def _datagrams(self) -> None:
        while not self._closing:
            try:
                data, peer = self._udp.recvfrom(_CHUNK)
                if data and not self._closing:
                    self._udp.sendto(data + f"{peer[0]} {self._name}".encode(), peer)
            except OSError:  # while its VIP is gone the kernel refuses to send from it
                if self._closing:
                    return

    def _connections(self) -> None:
        while not self._closing:
            try:
                connection, peer = self._tcp.accept()
            except OSError:
                continue
            threading.Thread(target=self._serve, args=(connection, peer[0]), daemon=True).start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            connection.settimeout(30)
            connection.sendall(f"{client} {self._name}\n".encode())
            while head := connection.recv(_LENGTH.size, socket.MSG_WAITALL):
                connection.sendall(_receive(connection, _LENGTH.unpack(head)[0]))


def _receive(connection: socket.socket, length: int) -> bytes:
    parts, missing = [], length
    while missing:
        part = connection.recv(min(missing, _CHUNK))
        if not part:
            raise EOFError(f"{missing} of {length} bytes did not come")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def echoes(server: str, vips: Iterable[str], ports: Iterable[int], device: str = "") -> Iterator[None]:
    """An `Echo` on each of the VIPs and ports."""
    ports = list(ports)
    with contextlib.ExitStack() as stack:
        for vip in vips:
            for port in ports:
                stack.callback(Echo(server, vip, port, device).close)
        yield


# --- the client ---------------------------------------------------------------------------------------------------


def client_ip(vip: str) -> str:
    """The address that the client has towards *vip*."""
    return CLIENT_IP6 if ":" in vip else CLIENT_IP


@dataclass(frozen=True)
class Answer:
    """What came back: the client's address as the server saw it, which server that was, and the answer's source."""

    seen: str
    server: str
    source: str


def ask_udp(vip: str, port: int, payload: bytes = b"hello", timeout: float = _PATIENCE) -> Answer:
    """One packet to the VIP and its answer."""
    with udp_socket(CLIENT, family_of(vip)) as asking:
        asking.settimeout(timeout)
        asking.sendto(payload, (vip, port))
        data, source = asking.recvfrom(_CHUNK)
    assert data.startswith(payload)
    seen, server = data[len(payload) :].decode().split()
    return Answer(seen, server, source[0])


def ask_tcp(vip: str, port: int, payload: bytes = b"", timeout: float = _PATIENCE) -> Answer:
    """One connection to the VIP, with *payload* there and back."""
    with tcp_socket(CLIENT, family_of(vip)) as asking:
        asking.settimeout(timeout)
        asking.connect((vip, port))
        line = b""
        while not line.endswith(b"\n"):
            line += asking.recv(1) or b"\n"
        if payload:
            sending = threading.Thread(target=asking.sendall, args=(_LENGTH.pack(len(payload)) + payload,))
            sending.start()
            back = _receive(asking, len(payload))
            sending.join()
            assert hashlib.sha256(back).digest() == hashlib.sha256(payload).digest()
        source: str = asking.getpeername()[0]
    seen, server = line.decode().split()
    return Answer(seen, server, source)


def connections_per_second(vip: str, port: int, count: int = 20) -> float:
    """How many whole TCP connections fit into a second, by *count* of them, one after the other."""
    started = time.monotonic()
    for _ in range(count):
        ask_tcp(vip, port)
    return count / (time.monotonic() - started)


@dataclass(frozen=True)
class Tally:
    """What became of the packets of a `Stream`, exactly."""

    sent: int
    answered: int
    duplicates: int
    wrong: int
    longest_gap: int
    longest_gap_ms: float

    @property
    def lost(self) -> int:
        return self.sent - self.answered

    def __add__(self, other: Tally) -> Tally:
        """Both together; the longest gap is the longer one."""
        longest, longest_ms = max((t.longest_gap, t.longest_gap_ms) for t in (self, other))
        sums = (self.sent + other.sent, self.answered + other.answered)
        return Tally(*sums, self.duplicates + other.duplicates, self.wrong + other.wrong, longest, longest_ms)

    def __str__(self) -> str:
        if not self.lost:
            return f"{self.sent} sent, 0 lost"
        return f"{self.sent} sent, {self.lost} lost (at most {self.longest_gap} in a row, {self.longest_gap_ms:.0f} ms)"


@dataclass
class _Fate:
    sent: float
    answers: int = 0
    wrong: int = 0


@dataclass
class Stream:
    """
    Numbered UDP packets from the client to a VIP, *rate* a second, until closed.

    A packet counts as lost only when its answer has not come a good while after the last one was sent; an answer
    that comes from elsewhere than the VIP, or to a client that the server saw under another address, is *wrong*.
    """

    vip: str
    port: int
    rate: float = 250.0
    _fates: list[_Fate] = field(default_factory=list)
    _answered: int = 0

    def __enter__(self) -> Self:
        self._socket = udp_socket(CLIENT, family_of(self.vip))
        self._socket.settimeout(0.2)
        self._expected = client_ip(self.vip).encode()
        self._stopping = self._closing = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stopping:
            self._fates.append(_Fate(time.monotonic()))
            with contextlib.suppress(OSError):
                self._socket.sendto(_NUMBER.pack(len(self._fates) - 1), (self.vip, self.port))
            due = max(due + 1 / self.rate, time.monotonic() - 0.05)
            time.sleep(max(due - time.monotonic(), 0))

    def _receive(self) -> None:
        while True:  # what is there has come, however late anybody looks
            try:
                data, source = self._socket.recvfrom(2048)
            except OSError:
                if self._closing:
                    return
                continue
            fate = self._fates[_NUMBER.unpack_from(data)[0]]
            fate.answers += 1
            self._answered += fate.answers == 1
            if source[0] != self.vip or data[_NUMBER.size :].split()[0] != self._expected:
                fate.wrong += 1

    @property
    def sent(self) -> int:
        """How many have been sent so far."""
        return len(self._fates)

    def wait_answered(self, more: int = 20, timeout: float = 2 * _PATIENCE) -> None:
        """Return once *more* packets sent from now on have been answered; `TimeoutError` if that never happens."""
        until, first = time.monotonic() + timeout, self.sent
        while sum(1 for fate in self._fates[first:] if fate.answers) < more:
            if time.monotonic() > until:
                raise TimeoutError(f"no {more} packets to {self.vip} were answered within {timeout:.0f} s")
            time.sleep(0.01)

    def finish(self) -> Tally:
        """Stop sending, wait for what is under way, and tell."""
        if not self._closing:
            self._stopping = True
            self._threads[0].join()
            looks, answered = 0, self._answered
            while self._answered < len(self._fates) and looks < (_LATE if self._fates[-1].answers else _VERY_LATE):
                time.sleep(_LOOK)
                looks = looks + 1 if self._answered == answered else 0
                answered = self._answered
            self._closing = True
            self._threads[1].join()
            self._socket.close()
        return self.tally()

    def tally(self, after: float = 0.0, before: float = float("inf")) -> Tally:
        """What became of the packets that were sent between two moments of the steady clock."""
        fates = [fate for fate in self._fates if after <= fate.sent < before]
        longest, longest_ms, began, run = 0, 0.0, None, 0
        for fate in [*fates, _Fate(time.monotonic(), 1)]:
            if not fate.answers:
                began = fate.sent if began is None else began
                run += 1
                continue
            if began is not None and run >= longest:
                longest, longest_ms = run, (fate.sent - began) * 1000
            began, run = None, 0
        answered = sum(1 for fate in fates if fate.answers)
        duplicates = sum(fate.answers - 1 for fate in fates if fate.answers)
        wrong = sum(fate.wrong for fate in fates)
        return Tally(len(fates), answered, duplicates, wrong, longest, longest_ms)
