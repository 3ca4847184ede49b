"""
Where HTTP and agent checks are to be had: which sockets, opened when they can be, and tried again while they cannot.

An address that this host does not have yet is listened on all the same (IP_FREEBIND): it is served the moment it comes.
A port that somebody else has, a name that cannot be resolved and a certificate that cannot be read are told once and
tried again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

BACKLOG = 128
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for TLS: a certificate (chain), its key where that is apart, and who signs the clients' certificates."""

    certificate: str
    key: str | None = None
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """What ``[http]`` and ``[agent_check]`` say."""

    listen: tuple[str, ...] = ()
    agent_check: tuple[str, ...] = ()
    socket: str = ""
    tls: Tls | None = None


DEFAULT_SOCKET = "/run/dsr-agent/http.sock"


def default_socket(environ: Mapping[str, str]) -> str:
    """Below the directory that systemd made for the service; of several, the first."""
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"{directory}/http.sock" if directory else DEFAULT_SOCKET


class ListenAddress(NamedTuple):
    """Where to listen; in which VRF, if in one."""

    host: str
    port: int
    vrf: str = ""


def split(listen: str) -> ListenAddress:
    """The parts of ``host:port`` or ``host%vrf:port``."""
    host, _, port = listen.rpartition(":")
    host, _, vrf = host.strip("[]").partition("%")
    return ListenAddress(host, int(port), vrf)


def open_tcp(place: ListenAddress, tell: Callable[[str], None]) -> list[socket.socket]:
    """
    Listening sockets for every address that the place's host is; all or none.

    *tell* gets a sentence when an address is not on this host yet. Raises `OSError` when it cannot be done now. Asks
    the resolver, which may take its time.
    """
    opened: list[socket.socket] = []
    try:
        asked = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(asked):
            made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
            opened.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if place.vrf:  # one that is bound to none gets nothing from there
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, place.vrf.encode())
            try:
                made.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                six = family == socket.AF_INET6
                made.setsockopt(*((socket.IPPROTO_IPV6, _IPV6_FREEBIND) if six else (0, _IP_FREEBIND)), 1)
                made.bind(address)
                tell(f"{address[0]} is not an address of this host (yet); it is served as soon as it is")
            made.listen(BACKLOG)
    except OSError:
        for made in opened:
            made.close()
        raise
    return opened


def open_unix(path: str) -> socket.socket:
    """
    A listening socket at *path*, for its owner and group only; what a dead process left there is replaced.

    Raises `OSError` when it cannot be done now, EADDRINUSE when somebody answers there.
    """
    with contextlib.suppress(OSError):
        Path(path).parent.mkdir(mode=0o755)
    with contextlib.suppress(FileNotFoundError):
        _remove_stale(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        made.bind(path)
        os.chmod(path, 0o660)  # before anybody can connect: nobody listens yet
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _remove_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            if Path(path).is_socket():
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody listens, and is busy
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def context_of(tls: Tls) -> ssl.SSLContext:
    """
    TLS as the files say, read now.

    Raises `OSError` (of which `ssl.SSLError` is one) when they cannot be read or do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    if tls.client_ca:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    """A key that asks for a password would ask the terminal, and wait."""
    raise OSError(errno.EACCES, "the key is locked with a password")


def why(error: OSError) -> str:
    """What *error* means, in a few words."""
    if error.errno == errno.EADDRINUSE:
        return "somebody else listens there"
    if error.errno == errno.ENODEV:
        return "its VRF is not there (yet)"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    where = f"{error.filename}: " if error.filename else ""
    return where + (error.strerror or str(error))
