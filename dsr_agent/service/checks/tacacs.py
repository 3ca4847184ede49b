"""
A TACACS+ server is asked: for a connection, and with a secret for the beginning of a login (RFC 8907, section 5).

No library for it is alive, and this much of the protocol is two structures and a pad. The login stays without a name:
the server asks for one, and it ends there. So it is about nobody, and no failure is counted against anybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import struct
from typing import NamedTuple

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import Target
from dsr_agent.service.checks.secret import reveal
from dsr_agent.service.checks.tcp import connected
from dsr_agent.truth.checks import Answer, FailureReason

_HEADER = struct.Struct("!BBBBII")  # version, type, sequence number, flags, session, length
_REPLY = struct.Struct("!BBHH")  # status, flags, length of the message, length of the data
_VERSION = 0xC0
_AUTHENTICATION = 1
_UNENCRYPTED = 0x01
_LOGIN, _ASCII, _LOGIN_SERVICE = 1, 1, 1
_RESTART, _ERROR, _FOLLOW = 6, 7, 0x21
_STATUSES = frozenset({*range(1, 8), _FOLLOW})
_LARGEST = 1 << 16


def obfuscated(body: bytes, secret: bytes, session: int, sequence: int, version: int = _VERSION) -> bytes:
    """*body* under the pad of RFC 8907, section 4.5; twice is not at all."""
    seed = struct.pack("!I", session) + secret + bytes((version, sequence))
    pad = block = b""
    while len(pad) < len(body):
        block = hashlib.md5(seed + block, usedforsecurity=False).digest()
        pad += block
    return bytes(one ^ other for one, other in zip(body, pad, strict=False))


def start(secret: bytes, session: int, source: str) -> bytes:
    """An authentication START without a user's name."""
    port, address = b"dsr-agent", source.encode()
    body = bytes((_LOGIN, 0, _ASCII, _LOGIN_SERVICE, 0, len(port), len(address), 0)) + port + address
    header = _HEADER.pack(_VERSION, _AUTHENTICATION, 1, 0, session, len(body))
    return header + obfuscated(body, secret, session, 1)


class Reply(NamedTuple):
    """What an authentication REPLY says."""

    status: int
    message: bytes


def reply_of(header: bytes, body: bytes, secret: bytes, session: int) -> Reply | None:
    """The answer to `start`; None if it is none, or was written with another secret."""
    version, kind, sequence, flags, about, _ = _HEADER.unpack(header)
    if version >> 4 != _VERSION >> 4 or kind != _AUTHENTICATION or sequence != 2 or about != session:
        return None
    if flags & _UNENCRYPTED or len(body) < _REPLY.size:
        return None
    plain = obfuscated(body, secret, session, 2, version)
    status, _, message, data = _REPLY.unpack_from(plain)
    if status not in _STATUSES or _REPLY.size + message + data != len(plain):
        return None
    return Reply(status, plain[_REPLY.size : _REPLY.size + message])


async def ask(check: CheckSettings, target: Target) -> Answer:
    """See `asking.Asker`."""
    secret = reveal("secret", check.secret, check.secret_file)
    session = secrets.randbits(32)
    async with asyncio.timeout(check.timeout), connected(target) as (reader, writer):
        if not secret:
            return Answer()
        writer.write(start(secret, session, str(target.source)))
        header = await reader.readexactly(_HEADER.size)
        length = _HEADER.unpack(header)[-1]
        body = await reader.readexactly(length) if length <= _LARGEST else b""
    found = reply_of(header, body, secret, session)
    if found is None:
        hint = f"it has another secret for {target.source}, or none"
        return Answer(FailureReason.BAD_ANSWER, f"{target} answers what cannot be read as a TACACS+ reply", hint)
    if found.status in (_RESTART, _ERROR, _FOLLOW):
        said = {_RESTART: "restart", _ERROR: "error", _FOLLOW: "follow another server"}[found.status]
        return Answer(FailureReason.REJECTED, f"answers the beginning of a login with: {said}")
    return Answer()
