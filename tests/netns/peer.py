"""
The other end of a segment: somebody in a namespace of their own who is client and balancer at once.

What is sent to a VIP leaves as a balancer would send it on, and the real server (the namespace that the test is in)
answers the client straight.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from typing import TypeVar

from tests.netns.filter import nft
from tests.netns.process import DEADLINE
from tests.netns.space import enter, namespace, routed, sh

T = TypeVar("T")

SERVER, SERVER6, PEER, PEER6 = "10.0.3.2", "fd00:3::2", "10.0.3.1", "fd00:3::1"


class Peer:
    """Does things in the other namespace, from a thread that lives there; so do the sockets it makes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def does(self, make: Callable[[], T]) -> T:
        """What *make* returns there."""
        found: list[T] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                enter(self._descriptor)
                found.append(make())
            except BaseException as error:  # handed over to the test
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def sh(self, *commands: str) -> str:
        """Run commands there."""
        return self.does(lambda: sh(*commands))

    def marks(self, vip: str, dscp: int, server: str) -> None:
        """From now on, send what goes to *vip* to *server* with the code point, as a balancer does for L3DSR."""
        family = "ip" if ip_address(vip).version == 4 else "ip6"
        rule = f"{family} daddr {vip} {family} dscp set {dscp} {family} daddr set {server}"
        self.does(lambda: nft(f"add table inet balancer; add chain inet balancer sent {{ {_HOOK} }}"))
        self.does(lambda: nft(f"add rule inet balancer sent {rule}"))

    def asks(self, vip: str, port: int, data: bytes, *, tos: int = 0) -> bytes:
        """Send a datagram to *vip*; the answer, which must come from there."""
        with self.does(lambda: socket.socket(_family(vip), socket.SOCK_DGRAM)) as asking:
            asking.settimeout(DEADLINE)
            if tos and _family(vip) == socket.AF_INET:
                asking.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            asking.connect((vip, port))
            asking.send(data)
            return asking.recv(1 << 16)

    def silence(self, vip: str, port: int) -> bool:
        """Whether nothing answers there."""
        with self.does(lambda: socket.socket(_family(vip), socket.SOCK_DGRAM)) as asking:
            asking.settimeout(0.5)
            asking.connect((vip, port))
            try:
                asking.send(b"anybody")
                asking.recv(100)
            except OSError:
                return True
            return False

    def trades(self, vip: str, port: int, data: bytes) -> bytes:
        """Send all of it over TCP, and read as much back."""
        with self.does(lambda: socket.socket(_family(vip), socket.SOCK_STREAM)) as asking:
            asking.settimeout(DEADLINE)
            asking.connect((vip, port))
            sending = threading.Thread(target=asking.sendall, args=(data,))
            sending.start()
            found = bytearray()
            while len(found) < len(data) and (part := asking.recv(1 << 16)):
                found += part
            sending.join()
            return bytes(found)


_HOOK = "type filter hook postrouting priority 300;"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


@contextmanager
def peer(*vips: str) -> Iterator[Peer]:
    """Somebody at the other end of ``nic``, whose way to *vips* is this host. To be asked for in a `namespace`."""
    with namespace():
        there = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        subprocess.run(
            f"ip link add nic type veth peer name nic netns /proc/{os.getpid()}/fd/{there}".split(), check=True
        )
        sh("sysctl net/ipv6/conf/nic/accept_dad=0", "ip link set nic up")
        sh(f"ip addr add {SERVER}/24 dev nic", f"ip -6 addr add {SERVER6}/64 dev nic nodad")
        found = Peer(there)
        found.sh("sysctl net/ipv6/conf/nic/accept_dad=0", "ip link set nic up")
        found.sh(f"ip addr add {PEER}/24 dev nic", f"ip -6 addr add {PEER6}/64 dev nic nodad")
        for vip in vips:
            found.sh(f"ip route add {vip} via {SERVER if ip_address(vip).version == 4 else SERVER6}")
        yield found
    finally:
        os.close(there)


class _Echo:
    """A service on one address and port, UDP and TCP."""

    def __init__(self, address: str, port: int) -> None:
        self.got: list[tuple[bytes, str]] = []
        self._ending = False
        self._udp = _bound(address, port, socket.SOCK_DGRAM)
        self._tcp = _bound(address, port, socket.SOCK_STREAM)
        self._tcp.listen()
        loops = (self._datagrams, self._connections)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ending = True
        for opened in (self._udp, self._tcp):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)  # wakes whoever waits on it
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    def _datagrams(self) -> None:
        while not self._ending:
            with suppress(OSError):  # while its VIP is gone, the kernel refuses to send from it
                data, sender = self._udp.recvfrom(1 << 16)
                if not self._ending:
                    self.got.append((data, sender[0]))
                    self._udp.sendto(data, sender)

    def _connections(self) -> None:
        while not self._ending:
            with suppress(OSError):
                one, _ = self._tcp.accept()
                threading.Thread(target=_send_back, args=(one,), daemon=True).start()


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket that need not wait for its address."""
    opened = socket.socket(_family(address), kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    level, freebind = (socket.IPPROTO_IP, 15) if ip_address(address).version == 4 else (socket.IPPROTO_IPV6, 78)
    opened.setsockopt(level, freebind, 1)
    opened.bind((address, port))
    return opened


def _send_back(one: socket.socket) -> None:
    with one:
        while data := one.recv(1 << 16):
            one.sendall(data)


@contextmanager
def echo(address: str, port: int) -> Iterator[list[tuple[bytes, str]]]:
    """A service of this host on *address* that sends back what comes; yields the datagrams it got, and from whom."""
    if ip_address(address).version == 6:
        routed(address)
    with closing(_Echo(address, port)) as made:
        yield made.got


def came(got: list[tuple[bytes, str]]) -> None:
    """Wait until an `echo` has got something."""
    end = time.monotonic() + DEADLINE
    while not got:
        assert time.monotonic() < end, "nothing ever came"
        time.sleep(0.01)
