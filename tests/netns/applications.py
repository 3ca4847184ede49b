"""Applications of which a check asks whether they answer, and how it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from pyrad import packet

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import Target, ask
from dsr_agent.truth.checks import Answer
from tests.netns.space import NETWORK_CARD, routed, sh

VIP, VIP2, OWN, PORT = "192.0.2.10", "192.0.2.11", "10.0.3.2", 1812
VIP6, OWN6 = "2001:db8::10", "2001:db8:1::2"
SECRET = "between us"
# Long enough that only what is really silent runs into it, and those cases wait for it.
PATIENT, HASTY = 30.0, 0.3


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


def addressed() -> None:
    """Have the host's own addresses and the VIPs in this namespace."""
    sh(*NETWORK_CARD, f"ip addr add {VIP}/32 dev lo scope host", f"ip addr add {VIP2}/32 dev lo scope host")
    sh(f"ip addr add {OWN6}/64 dev nic nodad", f"ip addr add {VIP6}/128 dev lo preferred_lft 0 nodad")
    routed(OWN6, VIP6)


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
