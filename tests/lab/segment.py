"""
nPath: client, balancer and real servers on one segment, and a VIP of that segment that three of them have.

::

    client 10.1.0.2 --+-- balancer 10.1.0.5 (IPVS in DR mode; has the VIP 10.1.0.100, and answers for it)
                      |
                      +-- rs1 10.1.0.11, rs2 10.1.0.12 (have the VIP, too, and must not)

The balancer changes nothing but the destination's MAC address, and the real server answers the client straight.
`Watch` asks who has the VIP, again and again, and hears everybody who says so.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from tests.lab import spaces
from tests.lab.forge import internet_checksum
from tests.lab.spaces import inside, ip_batch, run, set_sysctls, within
from tests.lab.world import BALANCER, CLIENT, CLIENT_IP, CLIENT_IP6, PORTS, ROUTER, RS1, RS2

HOSTS: Mapping[str, int] = {CLIENT: 2, BALANCER: 5, RS1: 11, RS2: 12}
VIP, VIP6 = "10.1.0.100", "fd00:1::100"

_ALL, _ARP, _IP6 = 0x0003, 0x0806, 0x86DD


@contextmanager
def segment() -> Iterator[None]:
    """The network, IPVS in DR mode for both VIPs on `PORTS`; gone at the end. The bridge is where the router was."""
    names = (ROUTER, *HOSTS)
    try:
        spaces.delete(names)
        spaces.create(names)
        _join()
        _serve()
        yield
    finally:
        spaces.delete(names)


def _join() -> None:
    for name in HOSTS:
        set_sysctls(name, {"ipv6/conf/default/accept_dad": 0})
    ip_batch("", [f"link add to-{name} netns {ROUTER} type veth peer name eth0 netns {name}" for name in HOSTS])
    ip_batch(
        ROUTER,
        [
            "link add segment type bridge mcast_snooping 0",
            "link set segment up",
            *(line for name in HOSTS for line in (f"link set to-{name} master segment", f"link set to-{name} up")),
        ],
    )
    for name, number in HOSTS.items():
        addresses = [f"address add 10.1.0.{number}/24 dev eth0", f"address add fd00:1::{number}/64 dev eth0 nodad"]
        ip_batch(name, [*addresses, "link set eth0 up", "route add default via 10.1.0.2"])


def _serve() -> None:
    ip_batch(BALANCER, [f"address add {VIP}/24 dev eth0", f"address add {VIP6}/64 dev eth0 nodad"])
    rules = []
    for protocol in ("t", "u"):
        for port, servers in PORTS.items():
            for vip, where in ((VIP, "10.1.0.{}"), (f"[{VIP6}]", "[fd00:1::{}]")):
                rules.append(f"-A -{protocol} {vip}:{port} -s rr")
                rules += [f"-a -{protocol} {vip}:{port} -r {where.format(HOSTS[name])}:{port} -g" for name in servers]
    with inside(BALANCER):
        run("ipvsadm", "-R", given="\n".join(rules) + "\n")


class Watch:
    """
    Asks for both VIPs again and again, and remembers which hosts say that they have one. A context manager.

    *answered* are those who answered, *claimed* those who named a VIP as their own in whatever they asked or announced.
    Listens at the real servers' ports of the bridge, so that nothing is missed that is meant for somebody else.
    """

    def __init__(self) -> None:
        self._own = within(CLIENT, lambda: _packet_socket("eth0"))
        self._ears = {name: within(ROUTER, partial(_packet_socket, f"to-{name}")) for name in HOSTS}
        mac: bytes = self._own.getsockname()[4]
        self._questions = [question(mac, CLIENT_IP, VIP), question(mac, CLIENT_IP6, VIP6)]
        self._ending = False
        self._turned = threading.Condition()
        self.rounds = 0
        self.answered: dict[str, set[str]] = {VIP: set(), VIP6: set()}
        self.claimed: set[str] = set()
        self._threads = [
            threading.Thread(target=self._ask),
            *(threading.Thread(target=self._hear, args=(n,)) for n in HOSTS),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join()
        for opened in (self._own, *self._ears.values()):
            opened.close()

    def again(self, times: int = 20) -> None:
        """Wait until both have been asked for so many times more."""
        with self._turned:
            goal = self.rounds + times
            assert self._turned.wait_for(lambda: self.rounds >= goal, 60)

    def _ask(self) -> None:
        while not self._ending:
            for each in self._questions:
                self._own.send(each)
            time.sleep(0.01)  # the pace of asking, not a wait for anything
            with self._turned:
                self.rounds += 1
                self._turned.notify()

    def _hear(self, name: str) -> None:
        ear = self._ears[name]
        while not self._ending:
            try:
                frame, (_, _, kind, *_) = ear.recvfrom(2000)
            except TimeoutError:
                continue
            if kind == 4:  # PACKET_OUTGOING: the bridge sends it to the host
                continue
            self._take(name, frame)

    def _take(self, name: str, frame: bytes) -> None:
        if vip := answer(frame):
            self.answered.setdefault(vip, set()).add(name)
        if frame[12:14] == _ARP.to_bytes(2, "big") and str(IPv4Address(frame[28:32])) == VIP:
            self.claimed.add(name)


def _packet_socket(link: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    made.bind((link, _ALL))
    made.settimeout(0.2)
    return made


def question(own: bytes, source: str, target: str) -> bytes:
    """Who has *target*? A frame of ARP (RFC 826), or a neighbour solicitation (RFC 4861)."""
    asked, asker = ip_address(target), ip_address(source)
    if isinstance(asked, IPv4Address):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + asker.packed + bytes(6) + asked.packed
        return b"\xff" * 6 + own + struct.pack("!H", _ARP) + body
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + asked.packed[13:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + asked.packed + b"\x01\x01" + own
    pseudo = asker.packed + group + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", internet_checksum(pseudo + body)) + body[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + asker.packed + group + body
    return b"\x33\x33" + group[12:] + own + struct.pack("!H", _IP6) + packet


def answer(frame: bytes) -> str:
    """The address that a frame says its sender has, by an ARP reply or a neighbour advertisement, if it is one."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ARP and frame[20:22] == b"\0\2":
        return str(IPv4Address(frame[28:32]))
    if kind == _IP6 and frame[20] == 58 and frame[54] == 136:
        return str(IPv6Address(frame[62:78]))
    return ""
