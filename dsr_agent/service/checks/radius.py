"""
A RADIUS server is asked: Status-Server (RFC 5997), or an Access-Request about a user who is there for that (RFC 2865).

The socket is not connected, and does not have the VIP as its own address: so an answer from another address is seen. A
server that listens on every address and does not use IP_PKTINFO would otherwise answer from the VIP by accident
(FreeRADIUS issue 752).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from ipaddress import ip_address

from pyrad import packet

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks.asking import Target, bound
from dsr_agent.service.checks.secret import reveal
from dsr_agent.truth.checks import Answer, FailureReason

# Attributes by number (RFC 2865): no dictionary is needed for three of them.
_USER_NAME, _USER_PASSWORD, _NAS_IDENTIFIER = 1, 2, 32
_STATUS_SERVER_ANSWERS = (packet.AccessAccept, packet.AccountingResponse)
_IP_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}  # linux/in.h

_LARGEST = 8192
# So many answers of the VIP that do not fit, and it is not waited for one that does: it must not keep the loop busy.
_MOST_STRAYS = 64


def request(check: CheckSettings) -> packet.AuthPacket:
    """What is sent, with a Message-Authenticator in front. Raises `CannotAskError`."""
    secret = reveal("secret", check.secret, check.secret_file)
    access = check.request == "access-request"
    code = packet.AccessRequest if access else packet.StatusServer
    made = packet.AuthPacket(
        code, id=secrets.randbelow(256), secret=secret, authenticator=secrets.token_bytes(16), dict=None
    )
    made.add_message_authenticator()
    if access:
        made[_USER_NAME] = [(check.user or "").encode()]
        made[_USER_PASSWORD] = [made.PwCrypt(reveal("password", check.password, check.password_file))]
    made[_NAS_IDENTIFIER] = [b"dsr-agent"]
    return made


async def ask(check: CheckSettings, target: Target) -> Answer:
    """See `asking.Asker`."""
    made = request(check)
    loop = asyncio.get_running_loop()
    stray: Answer | None = None
    try:
        async with asyncio.timeout(check.timeout):
            with _open(target) as asking:
                await loop.sock_sendto(asking, made.RequestPacket(), (str(target.ip), target.port))
                for _ in range(_MOST_STRAYS):
                    data, peer = await loop.sock_recvfrom(asking, _LARGEST)
                    await asyncio.sleep(0)  # receiving what is there already lets nobody else run
                    found = judge(check, target, made, data, peer[0])
                    if found and found.reason is not FailureReason.BAD_ANSWER:
                        return found
                    stray = found or stray
    except TimeoutError:
        if stray is None:
            raise
    return stray or Answer(FailureReason.BAD_ANSWER, f"nothing that {target} is sent from elsewhere fits the request")


def _open(target: Target) -> socket.socket:
    family = socket.AF_INET6 if target.ip.version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.setsockopt(*_IP_RECVERR[family], 1)  # so that it is heard when nobody listens
    return bound(made, target)


def judge(check: CheckSettings, target: Target, made: packet.AuthPacket, data: bytes, peer: str) -> Answer | None:
    """What *data* from *peer* means; None if it is about nothing of ours. Bad answers may be followed by a good one."""
    at_home = ip_address(peer.partition("%")[0]) == target.ip
    try:
        reply = made.CreateReply(packet=data)
        genuine = made.VerifyReply(reply, data)
    except Exception:  # the library raises what it comes across: see its own PacketError, and the fuzz in the tests
        return Answer(FailureReason.BAD_ANSWER, f"{target} answers what is no RADIUS") if at_home else None
    if not genuine:
        if not at_home:
            return None
        text = f"{target} answers with a wrong authenticator or identifier"
        return Answer(FailureReason.BAD_ANSWER, text, f"it has another secret for {target.source}")
    if not at_home:
        text = f"answers from {peer} instead of the VIP"
        return Answer(FailureReason.WRONG_SOURCE, text, f"bind it to {target.ip}, or have it use IP_PKTINFO")
    return _meaning(check, reply.code)


def _meaning(check: CheckSettings, code: int) -> Answer:
    if check.request == "status-server":
        if code in _STATUS_SERVER_ANSWERS:
            return Answer()
        return Answer(FailureReason.REJECTED, f"answers Status-Server with code {code}")
    wanted = {"accept": packet.AccessAccept, "reject": packet.AccessReject, "any": code}[check.expect]
    if code not in (packet.AccessAccept, packet.AccessReject, packet.AccessChallenge):
        return Answer(FailureReason.REJECTED, f"answers an Access-Request with code {code}")
    if code == wanted:
        return Answer()
    did = {packet.AccessAccept: "accepts", packet.AccessReject: "rejects", packet.AccessChallenge: "challenges"}[code]
    return Answer(FailureReason.REJECTED, f"{did} user {check.user}, expected was {check.expect}")
