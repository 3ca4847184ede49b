"""What is asked by TCP (TACACS+, HTTP): those that answer, those that do not, and those that do it wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.truth.checks import FailureReason
from tests.netns.applications import (
    HASTY,
    OWN,
    PATIENT,
    PORT,
    SECRET,
    VIP,
    addressed,
    asked,
)
from tests.netns.space import sh


@pytest.fixture(autouse=True)
def addresses(space: None) -> None:
    addressed()


@contextlib.asynccontextmanager
async def tcp(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    address: str = VIP,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[None]:
    """A server, while it runs."""
    served: set[asyncio.Task[Any] | None] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(one, address, PORT, ssl=context):
        yield
    await asyncio.gather(*filter(None, served))


def says(text: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A server that reads something and says always the same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(text)
        await writer.drain()

    return serve


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing until the other side has had enough."""
    while await reader.read(1000):
        pass


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hangs up on everybody."""
    linger = b"\1\0\0\0\0\0\0\0"
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def test_tcp() -> None:
    async with tcp(hangs):
        assert (await asked("tcp")).reason is None
    assert (await asked("tcp")).reason is FailureReason.REFUSED
    async with tcp(hangs, "0.0.0.0"):
        assert (await asked("tcp")).reason is None
    sh(f"ip addr del {OWN}/24 dev nic")
    found = await asked("tcp")
    assert found.reason is FailureReason.ERROR
    assert f"cannot be reached from {OWN}" in found.text


async def test_tcp_where_connections_are_not_taken() -> None:
    """The queue is full: the kernel drops what comes next, and nobody is told."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind((VIP, PORT))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((VIP, PORT))
        assert (await asked("tcp", timeout=HASTY)).reason is FailureReason.TIMEOUT


async def test_tacacs_that_answers() -> None:
    from dsr_agent.service.checks import tacacs

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(12)
        session, length = int.from_bytes(header[4:8]), int.from_bytes(header[8:12])
        plain = tacacs.obfuscated(await reader.readexactly(length), SECRET.encode(), session, 1)
        assert plain.endswith(OWN.encode())
        body = bytes((status, 0, 0, 6, 0, 0)) + b"User: "
        under = tacacs.obfuscated(body, SECRET.encode(), session, 2)
        writer.write(b"\xc0\x01\x02\x00" + header[4:8] + len(under).to_bytes(4) + under)
        await writer.drain()

    status = 4
    async with tcp(serve):
        assert (await asked("tacacs", secret=SECRET)).reason is None
        assert (await asked("tacacs")).reason is None
        status = 7
        assert (await asked("tacacs", secret=SECRET)).reason is FailureReason.REJECTED


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (hangs, FailureReason.TIMEOUT),
        (resets, FailureReason.BAD_ANSWER),
        (says(b""), FailureReason.BAD_ANSWER),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), FailureReason.BAD_ANSWER),
        (says(b"\xc0\x01\x02\x00" + b"\xff" * 8), FailureReason.BAD_ANSWER),
        (says(b"\xc0\x01\x02\x00" + bytes(8)), FailureReason.BAD_ANSWER),
    ],
    ids=["hangs", "resets", "closes", "another protocol", "a huge length", "nothing inside"],
)
async def test_tacacs_that_does_not_answer(serve: Any, reason: FailureReason) -> None:
    async with tcp(serve):
        timeout = HASTY if reason is FailureReason.TIMEOUT else PATIENT
        assert (await asked("tacacs", secret=SECRET, timeout=timeout)).reason is reason


@pytest.mark.parametrize(
    ("serve", "keys", "reason"),
    [
        (says(b"HTTP/1.1 200 OK\r\n\r\nhello"), {}, None),
        (says(b"HTTP/1.0 302\r\n\r\n"), {}, None),
        (says(b"HTTP/1.1 500 Oh dear\r\n\r\n"), {}, FailureReason.STATUS),
        (says(b"HTTP/1.1 500 Oh dear\r\n\r\n"), {"status": [200, "500-501"]}, None),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), {"status": 204}, FailureReason.STATUS),
        (says(b"SSH-2.0-OpenSSH\r\n"), {}, FailureReason.BAD_ANSWER),
        (says(b"x" * 100_000), {}, FailureReason.BAD_ANSWER),
        (says(b""), {}, FailureReason.BAD_ANSWER),
        (resets, {}, FailureReason.BAD_ANSWER),
        (hangs, {"timeout": HASTY}, FailureReason.TIMEOUT),
    ],
    ids=["200", "302", "500", "500 is fine", "204 is wanted", "SSH", "endless", "closes", "resets", "hangs"],
)
async def test_http(serve: Any, keys: dict[str, Any], reason: FailureReason | None) -> None:
    async with tcp(serve):
        assert (await asked("http", **keys)).reason is reason


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for www.example.com that signs itself."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-subj", "/CN=x", "-addext", "subjectAltName=DNS:www.example.com", "-days", "2"]
    subprocess.run([*argv, "-keyout", str(file), "-out", f"{file}.crt"], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


async def test_https(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusted = {"ca": str(certificate)}
    async with tcp(says(b"HTTP/1.1 200 OK\r\n\r\n"), context=context):
        assert (await asked("https", host="www.example.com", **trusted)).reason is None
        assert (await asked("https", server_name="www.example.com", **trusted)).reason is None
        assert (await asked("https", verify=False)).reason is None
        for keys in (trusted, {}, {"host": "www.example.com"}):
            found = await asked("https", **keys)
            assert found.reason is FailureReason.TLS
            assert "certificate" in found.text
        assert (await asked("https", ca="/nowhere")).reason is FailureReason.ERROR
    async with tcp(says(b"HTTP/1.1 200 OK\r\n\r\n")):
        assert (await asked("https", verify=False)).reason is FailureReason.TLS
    async with tcp(hangs):
        assert (await asked("https", verify=False, timeout=HASTY)).reason is FailureReason.TIMEOUT
