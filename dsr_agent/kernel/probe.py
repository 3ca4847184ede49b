"""
Sends the self-test's datagrams and sees them arrive.

A raw socket takes the packet as it is; it goes to this host's own tunnel, comes out of it and arrives at a socket on
the VIP, which is told by which link (IP_PKTINFO). The kernel is looked at first each time: without the tunnel, it would
tell the load balancer by ICMP that nobody is here (facts B6), and without its address here, the packet would leave.

Sources: ``net/ipv4/raw.c``, ``net/ipv4/ip_sockglue.c``.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from dsr_agent.kernel import links, routes, stats
from dsr_agent.kernel.fou import Ports
from dsr_agent.kernel.netlink import Channel
from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import DsrError, NotPermitted
from dsr_agent.state.local import Towards
from dsr_agent.state.marks import PROBE_MARK
from dsr_agent.state.probe import PAYLOAD, Increase, Seen, Shot, Sight

_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO, _SO_MARK = 8, 49, 50, 36
_PKTINFO, _PKTINFO6 = struct.Struct("=i4s4s"), struct.Struct("=16si")
_PAYLOAD = b"dsr-agent self-test "
_ROOM = 256

# What tells why a packet went no further; facts B2 has which counts what.
_TELLING = (
    ("TcpExt", "IPReversePathFilter"),
    ("Ip", "InAddrErrors"),
    ("Ip", "InUnknownProtos"),
    ("Icmp", "OutDestUnreachs"),
)


class Prober:
    """
    Needs CAP_NET_RAW, and says so: raises `NotPermitted`. Any number of shots may be under way at once.

    They go to UDP *port* of the VIP; 0 leaves the choice to the kernel, for each anew.
    """

    def __init__(self, port: int = 0, root: Path = Path("/")) -> None:
        self._port = port
        self._root = root
        self._raw: dict[tuple[int, str], tuple[int, socket.socket]] = {}
        self._channel = Channel()
        self._ports = Ports()
        try:
            self._sender(4)
        except DsrError:
            self.close()
            raise

    def close(self) -> None:
        """Give the sockets back."""
        for _, opened in self._raw.values():
            opened.close()
        self._channel.close()
        self._ports.close()

    def _sender(self, version: int, vrf: str = "") -> socket.socket:
        """What sends packets of *version* as they are in *vrf*; opened when a tunnel first needs it."""
        index = socket.if_nametoindex(vrf) if vrf else 0  # a VRF that was made again is another one
        before, opened = self._raw.get((version, vrf), (0, None))
        if opened is None or before != index:
            if opened:
                opened.close()
                del self._raw[version, vrf]
            self._raw[version, vrf] = index, (opened := _raw(version, vrf))
        return opened

    async def fire(self, shot: Shot, patience: float, *, evidence: bool = False) -> Sight:
        """Send once, and wait at most *patience* seconds; *evidence* also reads what counts more meanwhile."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET if shot.vip.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as receiver:
            receiver.setblocking(False)
            try:
                _listen(receiver, shot, self._port)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    return Sight(Seen.NO_VIP, why="the VIP is not on this host")
                return Sight(Seen.REFUSED, why=f"no socket on port {self._port or 'any'} of the VIP: {error.strerror}")
            if sight := self._not_to_be_sent(shot):
                return sight
            payload = _PAYLOAD + secrets.token_bytes(PAYLOAD - len(_PAYLOAD))
            arrived: asyncio.Future[int] = loop.create_future()
            loop.add_reader(receiver, _take, receiver, payload, arrived)
            try:
                before = self._counts(shot.link) if evidence else None
                sent = loop.time()
                self._sender(shot.local.version, shot.arrives_in).sendto(
                    shot.wrap(receiver.getsockname()[1], payload), (str(shot.local), 0)
                )
                await asyncio.wait([arrived], timeout=patience)
                taken = loop.time() - sent
                _take(receiver, payload, arrived)  # it may be there, and this process have had no time to look
                if not arrived.done():
                    return Sight(Seen.LOST, evidence=self._grown(before, shot.link) if before else None)
            except OSError as error:
                return Sight(Seen.REFUSED, why=f"the packet cannot be sent: {error.strerror}")
            except DsrError as error:
                return Sight(Seen.REFUSED, why=str(error))
            finally:
                loop.remove_reader(receiver)
        link = links.name_of(arrived.result())
        return Sight(Seen.ARRIVED if shot.bare or link == shot.link else Seen.ELSEWHERE, link, seconds=taken)

    def _not_to_be_sent(self, shot: Shot) -> Sight | None:
        """Look at the tunnel's link, its address, and the way back to where the packet says it comes from."""
        if why := shot.unfit(links.look_up(self._channel, shot.link)):
            return Sight(Seen.NO_TUNNEL, why=why)
        if not routes.is_local(self._channel, Towards(shot.local, shot.arrives_in)):
            return Sight(Seen.NO_TUNNEL, why=f"the tunnel's address {shot.local} is not on this host")
        if shot.port and not any(port.serves(shot.port) for port in self._ports.read()):
            return Sight(Seen.NO_TUNNEL, why=f"packets are not taken out of {shot.port}")
        if isinstance(shot.client, IPv4Address):
            client = Towards(shot.client, shot.vrf)
            if routes.is_local(self._channel, client):
                return Sight(Seen.UNKNOWN, why=f"{shot.client}, which the self-test says it is, is on this host")
            if not (shot.bare or routes.reaches(self._channel, client)):
                return Sight(Seen.UNKNOWN, why=f"no route to {shot.client}: the self-test needs a default route")
        return None

    # --- evidence --------------------------------------------------------------------------------------------------

    def _counts(self, link: str) -> tuple[Mapping[tuple[str, str], int], stats.Received]:
        counted = stats.read(self._channel, [link]).get(link)
        return stats.protocols(self._root), counted.received if counted else stats.Received()

    def _grown(self, before: tuple[Mapping[tuple[str, str], int], stats.Received], link: str) -> Increase:
        host, received = self._counts(link)
        grown = {f"{place[0]}{place[1]}": host.get(place, 0) - before[0].get(place, 0) for place in _TELLING}
        more = received.less(before[1])
        return Increase(
            {name: count for name, count in grown.items() if count > 0},
            more.packets,
            more.errors + more.dropped,
            self._reverse_path(link),
        )

    def _reverse_path(self, link: str) -> int | None:
        """The larger of all's and the link's own is what the kernel goes by."""
        values = []
        for name in ("all", link):
            try:
                values.append(int((self._root / "proc/sys/net/ipv4/conf" / name / "rp_filter").read_text()))
            except (OSError, ValueError):
                return None
        return max(values)


def _raw(version: int, vrf: str) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    except PermissionError as error:
        raise NotPermitted(
            f"no packet can be sent for the self-test: the kernel says {error.strerror!r}",
            "run as root or with CAP_NET_RAW",
        ) from None
    opened.setblocking(False)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, PROBE_MARK)
        _bind_to(opened, vrf)
    except OSError as error:
        opened.close()
        raise explain(error.errno or 0, "the self-test's packets cannot be marked") from None
    return opened


def _bind_to(opened: socket.socket, vrf: str) -> None:
    """Have a socket send and receive in *vrf*; in none of them it does so by itself."""
    if vrf:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, vrf.encode())


def _listen(receiver: socket.socket, shot: Shot, port: int) -> None:
    """Nobody else may have the port: who shared it might be given the packet instead."""
    _bind_to(receiver, shot.vrf)
    if shot.vip.version == 4:
        receiver.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        receiver.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    receiver.bind((str(shot.vip), port))


def _take(receiver: socket.socket, payload: bytes, arrived: asyncio.Future[int]) -> None:
    """What has come; anything but our own datagram is somebody else's mistake."""
    while True:
        try:
            data, told, _, _ = receiver.recvmsg(_ROOM, _ROOM)
        except OSError:  # nothing more, or an error that the kernel queued
            return
        if data != payload or arrived.done():
            continue
        for level, kind, value in told:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                arrived.set_result(_PKTINFO.unpack_from(value)[0])
            elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
                arrived.set_result(_PKTINFO6.unpack_from(value)[1])
