"""An HTTP server is asked for a page, in the clear or over TLS; what counts is the status."""

from __future__ import annotations

import asyncio
import os
import re
import ssl

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import CannotAskError, Target
from dsr_agent.service.checks.tcp import connected
from dsr_agent.truth.checks import Answer, FailureReason

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# By what they are made from: making one reads a hundred certificates.
_contexts: dict[tuple[bool, str | None, int], ssl.SSLContext] = {}


async def ask(check: CheckSettings, target: Target) -> Answer:
    """See `asking.Asker`."""
    context = await _context(check) if check.protocol == "https" else None
    name = check.server_name or check.host or str(target.ip)
    try:
        async with asyncio.timeout(check.timeout), connected(target, context, name) as (reader, writer):
            writer.write(request(check, target))
            line = await reader.readline()
    except ssl.SSLCertVerificationError as error:
        return Answer(FailureReason.TLS, f"the certificate of {target} is not good for {name}: {error.verify_message}")
    except ssl.SSLError as error:
        return Answer(FailureReason.TLS, f"{target} does not speak TLS with us: {error.reason or 'it ends'}")
    except ValueError:  # a line without an end
        line = b"?"
    if not line:
        return Answer(FailureReason.BAD_ANSWER, f"{target} closed the connection without an answer")
    match = _STATUS.fullmatch(line)
    if not match:
        return Answer(FailureReason.BAD_ANSWER, f"{target} answers what is no HTTP")
    status = int(match[1])
    if any(status in good for good in check.status):
        return Answer()
    return Answer(
        FailureReason.STATUS, f"{target}{check.path if len(check.path) < 60 else ''} answers with status {status}"
    )


def request(check: CheckSettings, target: Target) -> bytes:
    """What is sent."""
    host = check.host
    if host is None:
        bare = str(target).rpartition(":")[0]
        host = bare if target.port == _DEFAULT_PORTS[check.protocol] else str(target)
    lines = (f"GET {check.path} HTTP/1.1", f"Host: {host}", "User-Agent: dsr-agent", "Accept: */*", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode("ascii")


async def _context(check: CheckSettings) -> ssl.SSLContext:
    """How TLS is spoken; whom to trust is read again when the file has changed. Raises `CannotAskError`."""
    try:
        key = (check.verify, check.ca, os.stat(check.ca).st_mtime_ns if check.ca else 0)
        if key not in _contexts:
            _contexts[key] = await asyncio.to_thread(_make, check)
    except ssl.SSLError:
        raise CannotAskError(f"ca {check.ca} holds no certificates") from None
    except OSError as error:
        raise CannotAskError(f"ca {check.ca} cannot be read by the agent: {error.strerror}") from None
    return _contexts[key]


def _make(check: CheckSettings) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=check.ca)
    if not check.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
