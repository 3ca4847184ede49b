"""Applications are asked over real sockets: those that answer, those that do not, and those that do it wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pyrad import packet

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import Target, ask
from dsr_agent.truth.checks import Answer, Reason
from tests.netns.process import Agent, get
from tests.netns.space import NETWORK_CARD, sh

VIP, VIP2, OWN, PORT = "192.0.2.10", "192.0.2.11", "10.0.3.2", 1812
VIP6, OWN6 = "2001:db8::10", "2001:db8:1::2"
SECRET = "between us"
# Long enough that only what is really silent runs into it, and those cases wait for it.
PATIENT, HASTY = 20.0, 0.3


def check(protocol: str, **keys: Any) -> CheckSettings:
    """As the file would say it."""
    keys = {"interval": 60.0, "timeout": PATIENT, **keys}
    if protocol == "radius":
        keys = {"secret": SECRET, **keys}
    if protocol != "command":
        keys = {"service": f"{'udp' if protocol == 'radius' else 'tcp'}/{PORT}", **keys}
    return CheckSettings.model_validate({"protocol": protocol, **keys})


def asked(protocol: str, vip: str = VIP, source: str = OWN, **keys: Any) -> Awaitable[Answer]:
    """One question to whoever is there."""
    one = check(protocol, **keys)
    return ask(one, Target(ip_address(vip), one.service or "", ip_address(source)))


@pytest.fixture(autouse=True)
def addresses(space: None) -> None:
    """The host's own addresses and the VIPs."""
    sh(*NETWORK_CARD, f"ip addr add {VIP}/32 dev lo scope host", f"ip addr add {VIP2}/32 dev lo scope host")
    sh(f"ip addr add {OWN6}/64 dev nic nodad", f"ip addr add {VIP6}/128 dev lo preferred_lft 0 nodad")


# --- RADIUS -----------------------------------------------------------------------------------------------------------


class Radius(asyncio.DatagramProtocol):
    """A server; *answer* makes what it sends of what it got."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self._answer = answer
        self.peers: list[str] = []
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_soon(self.closed.set)  # the socket is closed right after this

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.peers.append(addr[0])
        for each in self._answer(data):
            self._transport.sendto(each, addr)


@contextlib.asynccontextmanager
async def radius(answer: Callable[[bytes], list[bytes]], address: str = VIP) -> AsyncIterator[Radius]:
    """It, while it runs."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Radius(answer), local_addr=(address, PORT))
    try:
        yield protocol
    finally:
        transport.close()
        await protocol.closed.wait()


def good(data: bytes, secret: bytes = SECRET.encode(), code: int = packet.AccessAccept) -> list[bytes]:
    """What a server should say; it knows one user."""
    request = packet.AuthPacket(packet=data, secret=secret, dict=None)
    assert request.verify_message_authenticator()
    reply = request.CreateReply()
    reply.code = code
    if request.code == packet.AccessRequest and request.PwDecrypt(request[2][0]) != "pass":
        reply.code = packet.AccessReject
    return [reply.ReplyPacket()]


USER = {"request": "access-request", "user": "joe", "password": "pass"}


async def test_radius_that_answers() -> None:
    async with radius(good) as server:
        assert (await asked("radius")).reason is None
        assert (await asked("radius", **USER)).reason is None
        rejected = await asked("radius", **{**USER, "password": "wrong"})
        assert (rejected.reason, rejected.text) == (Reason.REJECTED, "rejects user joe, expected was accept")
        assert (await asked("radius", **{**USER, "password": "wrong", "expect": "reject"})).reason is None
    assert set(server.peers) == {OWN}, "it is asked from the host's own address"


async def test_radius_that_listens_on_every_address_answers_from_a_wrong_one() -> None:
    async with radius(good, "0.0.0.0"):
        found = await asked("radius")
    assert (found.reason, found.text) == (Reason.WRONG_SOURCE, f"answers from {OWN} instead of the VIP")


async def test_why_it_is_not_asked_from_the_vip() -> None:
    """The fault would not be seen: the kernel answers from where it was asked."""
    async with radius(good, "0.0.0.0"):
        assert (await asked("radius", source=VIP)).reason is None
        assert (await asked("radius", source="127.0.0.1")).reason is Reason.WRONG_SOURCE


async def test_radius_over_ipv6() -> None:
    async with radius(good, VIP6):
        assert (await asked("radius", VIP6, OWN6)).reason is None
    async with radius(good, "::"):
        assert (await asked("radius", VIP6, OWN6)).reason is Reason.WRONG_SOURCE
    assert (await asked("radius", VIP6, OWN6)).reason is Reason.REFUSED


async def test_radius_that_is_silent() -> None:
    async with radius(lambda data: []):
        found = await asked("radius", timeout=HASTY)
    assert (found.reason, found.text) == (Reason.TIMEOUT, f"no answer from {VIP}:{PORT} within 0.3 s")
    assert f"does not know {OWN} as a client" in found.hint


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda data: [b"garbage"], "what is no RADIUS"),
        (lambda data: [data], "wrong authenticator"),
        (lambda data: [good(data)[0][:-1]], "what is no RADIUS"),
        (lambda data: [bytes([2, data[1], 0, 20]) + bytes(16)], "wrong authenticator"),
    ],
)
async def test_radius_that_answers_nonsense(answer: Callable[[bytes], list[bytes]], text: str) -> None:
    async with radius(answer):
        found = await asked("radius", timeout=HASTY)
    assert found.reason is Reason.BAD_ANSWER
    assert text in found.text


async def test_nonsense_before_the_answer_is_left_aside_and_too_much_of_it_ends_it() -> None:
    async with radius(lambda data: [b"garbage", *good(data)]):
        assert (await asked("radius")).reason is None
    async with radius(lambda data: [b"garbage"] * 200):
        assert (await asked("radius")).reason is Reason.BAD_ANSWER


async def test_nobody_there_is_heard_at_once() -> None:
    assert (await asked("radius")).reason is Reason.REFUSED


@pytest.mark.parametrize(("protocol", "service"), [("radius", "udp/1812"), ("tacacs", "tcp/49"), ("http", "tcp/80")])
async def test_from_an_address_of_the_other_version_of_ip_nobody_can_be_asked(protocol: str, service: str) -> None:
    assert (await asked(protocol, source="2001:db8:1::1", service=service)).reason is Reason.ERROR


async def test_what_cannot_be_asked(tmp_path: Path) -> None:
    """It says nothing about the application, and shows nothing."""
    for keys in ({"source": "203.0.113.1"}, {"secret": None, "secret_file": str(tmp_path / "none")}):
        found = await asked("radius", **keys)
        assert found.reason is Reason.ERROR
        assert found.good is None
        assert SECRET not in found.text


# --- TCP, TACACS+, HTTP -----------------------------------------------------------------------------------------------


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
    assert (await asked("tcp")).reason is Reason.REFUSED
    async with tcp(hangs, "0.0.0.0"):
        assert (await asked("tcp")).reason is None
    sh(f"ip addr del {OWN}/24 dev nic")
    found = await asked("tcp")
    assert found.reason is Reason.ERROR
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
        assert (await asked("tcp", timeout=HASTY)).reason is Reason.TIMEOUT


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
        assert (await asked("tacacs", secret=SECRET)).reason is Reason.REJECTED


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (hangs, Reason.TIMEOUT),
        (resets, Reason.BAD_ANSWER),
        (says(b""), Reason.BAD_ANSWER),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Reason.BAD_ANSWER),
        (says(b"\xc0\x01\x02\x00" + b"\xff" * 8), Reason.BAD_ANSWER),
        (says(b"\xc0\x01\x02\x00" + bytes(8)), Reason.BAD_ANSWER),
    ],
    ids=["hangs", "resets", "closes", "another protocol", "a huge length", "nothing inside"],
)
async def test_tacacs_that_does_not_answer(serve: Any, reason: Reason) -> None:
    async with tcp(serve):
        timeout = HASTY if reason is Reason.TIMEOUT else PATIENT
        assert (await asked("tacacs", secret=SECRET, timeout=timeout)).reason is reason


@pytest.mark.parametrize(
    ("serve", "keys", "reason"),
    [
        (says(b"HTTP/1.1 200 OK\r\n\r\nhello"), {}, None),
        (says(b"HTTP/1.0 302\r\n\r\n"), {}, None),
        (says(b"HTTP/1.1 500 Oh dear\r\n\r\n"), {}, Reason.STATUS),
        (says(b"HTTP/1.1 500 Oh dear\r\n\r\n"), {"status": [200, "500-501"]}, None),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), {"status": 204}, Reason.STATUS),
        (says(b"SSH-2.0-OpenSSH\r\n"), {}, Reason.BAD_ANSWER),
        (says(b"x" * 100_000), {}, Reason.BAD_ANSWER),
        (says(b""), {}, Reason.BAD_ANSWER),
        (resets, {}, Reason.BAD_ANSWER),
        (hangs, {"timeout": HASTY}, Reason.TIMEOUT),
    ],
    ids=["200", "302", "500", "500 is fine", "204 is wanted", "SSH", "endless", "closes", "resets", "hangs"],
)
async def test_http(serve: Any, keys: dict[str, Any], reason: Reason | None) -> None:
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
            assert found.reason is Reason.TLS
            assert "certificate" in found.text
        assert (await asked("https", ca="/nowhere")).reason is Reason.ERROR
    async with tcp(says(b"HTTP/1.1 200 OK\r\n\r\n")):
        assert (await asked("https", verify=False)).reason is Reason.TLS
    async with tcp(hangs):
        assert (await asked("https", verify=False, timeout=HASTY)).reason is Reason.TIMEOUT


# --- commands ---------------------------------------------------------------------------------------------------------


def script(folder: Path, text: str) -> list[str]:
    """A command."""
    file = folder / "ask.py"
    file.write_text(f"#!{sys.executable} -I\nimport os, sys, time\n{text}\n")
    file.chmod(0o755)
    return [str(file), "{vip}", "{service}"]


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        ("assert sys.argv[1:] == ['192.0.2.10', 'udp/53']", None, ""),
        ("assert os.environ['DSR_VIP'] == '192.0.2.10' and os.environ['DSR_SERVICE'] == 'udp/53'", None, ""),
        ("assert 'DSR_AGENT_X' not in os.environ", None, ""),
        ("print(); print('  no zone  '); print('more'); sys.exit(1)", Reason.COMMAND, "no zone"),
        ("print('on stderr', file=sys.stderr); sys.exit(9)", Reason.COMMAND, "on stderr"),
        ("print('a\\x1b[2Jb' + 'c' * 1000); sys.exit(1)", Reason.COMMAND, "a\\x1b[2Jb" + "c" * 194),
        ("sys.exit(3)", Reason.COMMAND, "ask.py ended with exit code 3"),
        ("os.kill(os.getpid(), 15)", Reason.COMMAND, "ask.py was killed by signal 15"),
        ("print('x' * 10_000_000); sys.exit(0)", None, ""),
    ],
)
async def test_a_command(tmp_path: Path, monkeypatch: Any, text: str, reason: Reason | None, said: str) -> None:
    monkeypatch.setenv("DSR_AGENT_X", "secret")
    found = await asked("command", command=script(tmp_path, text), service="udp/53")
    assert found.reason is reason, found.text
    assert found.text.endswith(said)


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """The pipe ends when the last of them has gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = f"os.open({str(pipe)!r}, os.O_WRONLY); os.fork(); os.fork(); time.sleep(600)"
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = await asked("command", command=script(tmp_path, held), timeout=2.0)
        os.set_blocking(reader, True)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)
    assert (found.reason, found.text) == (Reason.TIMEOUT, f"{tmp_path}/ask.py did not end within 2 s")


async def test_a_command_that_ends_leaves_no_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    left = f"os.open({str(pipe)!r}, os.O_WRONLY)\nif not os.fork(): time.sleep(600)"
    try:
        assert (await asked("command", command=script(tmp_path, left))).reason is None
        os.set_blocking(reader, True)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)


async def test_a_command_that_is_not_there_says_nothing_about_the_vip() -> None:
    found = await asked("command", command=["/no/such/program"])
    assert (found.reason, found.text) == (Reason.ERROR, "/no/such/program cannot be started: No such file or directory")


# --- the agent --------------------------------------------------------------------------------------------------------

SERVICES = f'services = ["udp/{PORT}"]\n'
VIPS = f'[[vip]]\naddress = "{VIP}"\n{SERVICES}[[vip]]\naddress = "{VIP2}"\n'
LISTENERS = "[listeners]\nfall = 100\n"
CHECK = f'[[check]]\nprotocol = "radius"\nsecret = "{SECRET}"\ninterval = 1\ntimeout = 0.5\nfall = 2\nrise = 2\n'


class TestAgent:
    def server(self, answer: str, address: str = VIP) -> subprocess.Popen[bytes]:
        """A RADIUS server as a process of its own: the agent's answers must not depend on the test's loop."""
        program = (
            "import asyncio, sys\nfrom tests.netns import test_checks as t\n"
            f"async def main():\n async with t.radius({answer}, {address!r}): print('up', flush=True); "
            "await asyncio.Event().wait()\nasyncio.run(main())\n"
        )
        started = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert started.stdout
        assert started.stdout.readline() == b"up\n"
        return started

    @contextlib.contextmanager
    def serving(self, answer: str = "t.good", address: str = VIP) -> Any:
        """It, for a while."""
        server = self.server(answer, address)
        try:
            yield
        finally:
            server.kill()
            server.wait()
            assert server.stdout
            server.stdout.close()

    def test_a_vip_whose_application_answers_is_ready_and_one_that_hangs_is_not(self, tmp_path: Path) -> None:
        again = tmp_path / "again"
        again.mkdir()
        sample = f'dsr_check_up{{check="radius",vip="{VIP}"}}'
        with self.serving(), Agent(tmp_path, LISTENERS + VIPS + CHECK) as agent:
            agent.serving()
            agent.until(lambda: sample in get("/metrics").body, "asked")
            assert get("/metrics").sample(sample) == 1
            assert get("/readyz").status == 200
            assert f"VIP {VIP}: radius check: answers in " in agent.call("status").stdout
        with self.serving("lambda data: []"), Agent(again, LISTENERS + VIPS + CHECK) as agent:
            agent.until(lambda: get(f"/readyz/{VIP}").status == 503, "unready")
            body = get(f"/readyz/{VIP}").body
            assert f"{VIP}/32 on lo: radius check: no answer from {VIP}:{PORT} within 0.5 s, " in body
            assert f"does not know {OWN} as a client" in body
            assert get(f"/readyz/{VIP2}").status == 200
            assert get("/metrics").sample(sample) == 0
            failed = f'dsr_check_failures_total{{check="radius",reason="timeout",vip="{VIP}"}}'
            assert get("/metrics").sample(failed) >= 2
            (row,) = get("/status").json()["agent"]["checks"]
            assert (row["vip"], row["check"], row["up"]) == (VIP, "radius", False)
            for said in (agent.log(), get("/status").body, get("/metrics").body, agent.call("check", "--json").stdout):
                assert SECRET not in said
            assert f"VIP {VIP}: radius check: no answer from" in agent.log()

    def test_it_recovers_and_a_reload_keeps_what_is_known(self, tmp_path: Path) -> None:
        config = LISTENERS + VIPS + CHECK
        with Agent(tmp_path, config) as agent:
            agent.serving()
            with self.serving("t.good", "0.0.0.0"):
                wrong = f"answers from {OWN} instead of the VIP"
                agent.until(lambda: wrong in get(f"/readyz/{VIP}").body, "seen")
                agent.reload(config.replace("timeout = 0.5", "timeout = 0.6"))
                agent.reload(config + '[[vip]]\naddress = "192.0.2.12"\n')
                assert wrong in get(f"/readyz/{VIP}").body
            with self.serving():
                agent.until(lambda: get(f"/readyz/{VIP}").status == 200, "ready")
                assert f"VIP {VIP}: radius check: answers again" in agent.log()
                agent.reload(LISTENERS + VIPS)
                agent.until(lambda: "dsr_check_up{" not in get("/metrics").body, "gone")
            assert get(f"/readyz/{VIP}").status == 200
