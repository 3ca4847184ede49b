"""
A small TACACS+ server on a real server (RFC 8907), and two clients that are not ours.

Debian has no server. Headers and obfuscation are those of the library ``tacacs_plus``; it is a client, so what a server
reads and answers is packed here. That both are right is for Perl's ``Authen::TacacsPlus`` to say.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from tacacs_plus import flags
from tacacs_plus.client import TACACSClient
from tacacs_plus.packet import TACACSHeader, TACACSPacket

from tests.lab.agent import DEADLINE
from tests.lab.spaces import family_of, inside, ip, run, tcp_socket, within
from tests.lab.world import CLIENT

PORT = 49
USER, PASSWORD = "operator", "let me in"

CLIENT_GATEWAY = "10.1.0.1"

_HEADER_SIZE = 12
_LONGEST = 4096


@dataclass(frozen=True)
class Session:
    """A line of the server's log: whom it saw, and what came of it."""

    client: str
    what: str = ""  # "login", "accounting"
    user: str = ""
    result: str = "pass"  # "fail", "unknown client", "not understood"


class Tacacs:
    """
    The server, on the VIPs of a real server. A context manager that runs it.

    *clients* are those that it knows, by nothing but the address, and the secret of each.
    """

    def __init__(self, space: str, addresses: Sequence[str], clients: Mapping[str, str]) -> None:
        self.space = space
        self._addresses = tuple(addresses)
        self._clients = dict(clients)
        self._sessions: list[Session] = []
        self._listening: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Listen on each VIP; they have to be there."""
        for address in self._addresses:
            listening = tcp_socket(self.space, family_of(address))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, PORT))
            listening.listen(128)
            self._listening.append(listening)
            self._threads.append(threading.Thread(target=self._accept, args=(listening,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Stop listening."""
        for listening in self._listening:
            listening.shutdown(socket.SHUT_RDWR)  # wakes whoever waits on it
        for thread in self._threads:
            thread.join(DEADLINE)
        for listening in self._listening:
            listening.close()
        self._listening, self._threads = [], []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self) -> list[Session]:
        """All sessions, in the order in which they ended."""
        return list(self._sessions)

    # --- a session ---------------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, peer = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, peer[0]), daemon=True).start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            connection.settimeout(DEADLINE)
            if client not in self._clients:
                self._sessions.append(Session(client, result="unknown client"))
                return
            talk = _Talk(connection, self._clients[client])
            try:
                session, answer = _WHAT[talk.kind](client, talk)
            except (KeyError, ValueError):
                session, answer = Session(client, result="not understood"), b""
            self._sessions.append(session)  # before the answer: who has that may look into the log
            if answer:
                talk.answer(answer)


class _Talk:
    """The packets of one session."""

    def __init__(self, connection: socket.socket, secret: str) -> None:
        self._connection = connection
        self._secret = secret
        self.body = self._receive()
        self.kind: int = self._header.type

    def _receive(self) -> bytes:
        self._header = TACACSHeader.unpacked(self._exactly(_HEADER_SIZE))
        packed = self._exactly(min(self._header.length, _LONGEST))
        return bytes(TACACSPacket(self._header, packed, self._secret).body)

    def _exactly(self, length: int) -> bytes:
        data = self._connection.recv(length, socket.MSG_WAITALL)
        if len(data) < length:
            raise EOFError
        return data

    def answer(self, body: bytes) -> None:
        """The server's next packet."""
        last = self._header
        header = TACACSHeader(last.version, last.type, last.session_id, len(body), last.seq_no + 1)
        self._connection.sendall(bytes(TACACSPacket(header, body, self._secret)))

    def ask(self, body: bytes) -> bytes:
        """The same, and what the client says to it."""
        self.answer(body)
        return self._receive()


def _login(client: str, talk: _Talk) -> tuple[Session, bytes]:
    """A session of authentication: the password comes at once (PAP), or what is missing is asked for (ASCII)."""
    kind = talk.body[2]
    user, _, _, password = _parts(talk.body[8:], talk.body[4:8])
    if kind == flags.TAC_PLUS_AUTHEN_TYPE_ASCII:
        if not user:
            user = _said(talk, flags.TAC_PLUS_AUTHEN_STATUS_GETUSER, b"Username: ")
        password = _said(talk, flags.TAC_PLUS_AUTHEN_STATUS_GETPASS, b"Password: ")
    passed = (user.decode(), password.decode()) == (USER, PASSWORD)
    status = flags.TAC_PLUS_AUTHEN_STATUS_PASS if passed else flags.TAC_PLUS_AUTHEN_STATUS_FAIL
    return Session(client, "login", user.decode(), "pass" if passed else "fail"), _authentication_reply(status)


def _said(talk: _Talk, status: int, question: bytes) -> bytes:
    """What the client answers to a question."""
    body = talk.ask(_authentication_reply(status, question))
    user, _ = struct.unpack_from("!HH", body)
    return body[5 : 5 + user]


def _authentication_reply(status: int, message: bytes = b"") -> bytes:
    return struct.pack("!BBHH", status, 0, len(message), 0) + message


def _account(client: str, talk: _Talk) -> tuple[Session, bytes]:
    """A record of accounting."""
    count = talk.body[8]
    user, *_ = _parts(talk.body[9 + count :], talk.body[5:8] + talk.body[9 : 9 + count])
    reply = struct.pack("!HHB", 0, 0, flags.TAC_PLUS_ACCT_STATUS_SUCCESS)
    return Session(client, "accounting", user.decode(), "pass"), reply


_WHAT: Mapping[int, Callable[[str, _Talk], tuple[Session, bytes]]] = {
    flags.TAC_PLUS_AUTHEN: _login,
    flags.TAC_PLUS_ACCT: _account,
}


def _parts(data: bytes, lengths: bytes) -> list[bytes]:
    """What lies in *data* one behind the other; `ValueError` if it is not just that."""
    if sum(lengths) != len(data):
        raise ValueError("the lengths do not add up: it was obfuscated with another secret")
    ends = list(accumulate(lengths))
    return [data[end - length : end] for length, end in zip(lengths, ends, strict=True)]


# --- clients ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _python(vip: str, client: str, secret: str) -> Iterator[Any]:
    """The one of ``tacacs_plus``, from one of the client's addresses."""
    made = TACACSClient(vip, PORT, secret, timeout=DEADLINE)
    made._sock = within(CLIENT, lambda: socket.create_connection((vip, PORT), DEADLINE, (client, 0)))
    with made.closing():
        yield made


def python_login(vip: str, client: str, secret: str, password: str = PASSWORD, *, pap: bool = False) -> bool:
    """Whether the server lets the user in."""
    kind = flags.TAC_PLUS_AUTHEN_TYPE_PAP if pap else flags.TAC_PLUS_AUTHEN_TYPE_ASCII
    with _python(vip, client, secret) as made:
        return bool(made.authenticate(USER, password, authen_type=kind).valid)


def python_account(vip: str, client: str, secret: str) -> bool:
    """Whether the server took down that a session began."""
    with _python(vip, client, secret) as made:
        return bool(made.account(USER, flags.TAC_PLUS_ACCT_FLAG_START, [b"service=shell", b"task_id=1"]).valid)


_PERL = """
use Authen::TacacsPlus;
my ($host, $secret, $user, $password, $pap) = @ARGV;
my $client = Authen::TacacsPlus->new(Host => $host, Key => $secret, Timeout => 30)
    or die Authen::TacacsPlus::errmsg();
my $kind = $pap ? Authen::TacacsPlus::TAC_PLUS_AUTHEN_TYPE_PAP() : Authen::TacacsPlus::TAC_PLUS_AUTHEN_TYPE_ASCII();
print $client->authen($user, $password, $kind) ? "pass" : "fail: " . Authen::TacacsPlus::errmsg();
"""


def perl_login(vip: str, client: str, secret: str, password: str = PASSWORD, *, pap: bool = False) -> str:
    """
    The same with ``Authen::TacacsPlus``: "pass", or what it says.

    It speaks IPv4 only and from the address that the route names, so the route names the client's address meanwhile.
    """
    ip(CLIENT, f"route replace {vip} via {CLIENT_GATEWAY} src {client}")
    try:
        with inside(CLIENT):
            return run("perl", "-e", _PERL, vip, secret, USER, password, str(int(pap)))
    finally:
        ip(CLIENT, f"route del {vip}")
