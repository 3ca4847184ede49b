"""
A real server with all that can break: eight VIPs by three tunnels, traffic to each, and applications that are asked.

What is looked at: what a balancer's monitor is told about each VIP, whose clients get answers, what the doctor says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from pyrad.dictionary import Dictionary
from pyrad.packet import AuthPacket

from dsr_agent.service.web.client import UnixConnection
from tests.lab import fault_parts as parts
from tests.lab import radius, tacacs, world
from tests.lab.agent import Agent, tunnel, vip, wait_for
from tests.lab.fault_parts import ALL, GRE, KEY, KEYED, LOCAL, RADIUS, RUNNING, TACACS, VIRTUALS, WEB, port_of
from tests.lab.nursery import Child
from tests.lab.radius import FreeRadius
from tests.lab.spaces import family_of, set_sysctls, tcp_socket, udp_socket
from tests.lab.tacacs import Tacacs
from tests.lab.traffic import Echo, Stream, ask_udp
from tests.lab.world import RS1

Serving = Callable[[], AbstractContextManager[Any]]

SECRET = "shared-with-this-host"
RATE = 12.0

QUICK = """
[agent]
poll_interval = 0.5
[probe]
rate = 100
interval = 0.5
timeout = 0.3
fall = 2
[listeners]
interval = 0.5
"""
CHECKS = "".join(
    f'[[check]]\nprotocol = "{protocol}"\ninterval = 1\ntimeout = 1\nfall = 2\nrise = 1\n{more}'
    for protocol, more in (
        ("radius", f'secret = "{SECRET}"\n'),
        (
            "radius",
            f'name = "login"\nrequest = "access-request"\nuser = "{radius.USER}"\n'
            f'password = "{radius.PASSWORD}"\nsecret = "{SECRET}"\n',
        ),
        ("tacacs", f'secret = "{SECRET}"\n'),
        ("http", f'service = "tcp/{parts.WEB_PORT}"\n'),
    )
)


def services_of(address: str) -> list[str]:
    """What a VIP serves, as the file says it."""
    special = {
        RADIUS: [f"udp/{radius.AUTH}"],
        TACACS: [f"tcp/{tacacs.PORT}"],
        WEB: [f"tcp/{parts.WEB_PORT}"],
    }
    return special.get(address, [f"{protocol}/{port_of(address)}" for protocol in ("udp", "tcp")])


def tunnel_of(address: str) -> str:
    """By which tunnel its requests come."""
    return "dsr-keyed" if address == KEYED else "dsr-gre" if address in GRE else "dsr-ipip"


CONFIG = (
    QUICK
    + tunnel("ipip")
    + tunnel("gre")
    + tunnel("gre", name="dsr-keyed", key=KEY)
    + "".join(vip(address, services=services_of(address), tunnels=[tunnel_of(address)]) for address in ALL)
    + CHECKS
)


class Watch:
    """A balancer's monitor: asks for ``/readyz/VIP`` of every VIP over and over, and keeps each change."""

    def __init__(self, agent: Agent) -> None:
        self._socket = str(Path(agent.file.parent, "http.sock"))
        self.told: dict[str, int] = dict.fromkeys(ALL, 0)
        self.words: dict[str, str] = {}  # the last ones that said why not
        self.changes: list[tuple[float, str, int]] = []
        self.rounds = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.1):
            status, words = 200, ""
            for address in ALL:
                if status:  # who does not answer about one VIP does not about the others
                    status, words = self._ask(address)
                if status != 200:
                    self.words[address] = words
                if status != self.told[address]:
                    self.told[address] = status
                    self.changes.append((time.monotonic(), address, status))
            self.rounds += 1

    def _ask(self, address: str) -> tuple[int, str]:
        """Status 0 while nobody answers."""
        asking = UnixConnection(self._socket)
        asking.timeout = 10.0  # a machine that stands still for a while tells nothing about a VIP
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(asking):
            asking.request("GET", f"/readyz/{address}")
            answer = asking.getresponse()
            return answer.status, answer.read().decode().strip()
        return 0, "no answer"

    def unready(self, since: float) -> dict[str, float]:
        """
        The VIPs that were told to be anything but ready after *since*, and after how many seconds for the first.

        No answer counts if it is the last word: the machine itself may stand still for longer than `_ask` waits.
        """
        found: dict[str, float] = {}
        for moment, address, status in list(self.changes):
            if moment >= since and (status or self.told[address]) != 200:
                found.setdefault(address, moment - since)
        return found

    def until(self, addresses: Collection[str], good: bool, what: str) -> None:
        """Until all of *addresses* are ready, or none is."""

        def there() -> bool:
            return all((self.told[address] == 200) is good for address in addresses)

        try:
            wait_for(there, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.words}") from None


class FaultWorld:
    """All of it. A context manager; *agent* is the one that runs or has been stopped."""

    def __init__(self) -> None:
        self.fighter: subprocess.Popen[bytes] | None = None
        self.applications: dict[str, Any] = {}
        self._closing: dict[str, contextlib.ExitStack] = {}
        self._ordinary: dict[str, Serving] = {
            **{address: echo(address) for address in ALL},
            "radius": freeradius,
            "tacacs": lambda: Tacacs(RS1, [TACACS], {LOCAL: SECRET}),
            "web": Web,
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(world.world())
        ports = (parts.PORT, parts.PORT_OF_B, radius.AUTH, tacacs.PORT, parts.WEB_PORT)
        world.serve(VIRTUALS, dict.fromkeys(ports, (RS1,)), one_packet=True)
        world.send_keyed(KEYED, RS1, KEY)
        set_sysctls(RS1, {"ipv4/conf/all/promote_secondaries": 1})
        self.agent = stack.enter_context(Agent(RS1, CONFIG))
        for name in self._ordinary:
            self._closing[name] = stack.enter_context(contextlib.ExitStack())
            self.again(name)
        for address in ALL:
            ask_udp(address, port_of(address))  # the first packet makes neighbours known
        self.streams = {address: stack.enter_context(Stream(address, port_of(address), RATE)) for address in ALL}
        self.watch = stack.enter_context(Watch(self.agent))
        self.well()

    # --- the agent ---------------------------------------------------------------------------------------------------

    def have_agent(self, state: str, fresh: bool = False) -> None:
        """One that runs, or none."""
        if self.agent.running and (fresh or state != RUNNING):
            self.agent.stop()
        if not self.agent.running and state == RUNNING:
            self.agent.start()
            self.watch.until(ALL, True, "all is ready")

    def process(self, name: str) -> subprocess.Popen[bytes] | Child:
        """Of the "agent", or of an application."""
        found: subprocess.Popen[bytes] | Child | None = (
            self.agent if name == "agent" else self.applications[name]
        ).process
        assert found
        return found

    def apply(self) -> None:
        """``dsr-agent apply``: with the agent stopped, this is what repairs."""
        done = self.agent.call("apply")
        assert done.returncode == 0, done.stdout + done.stderr

    def doctor(self) -> list[dict[str, Any]]:
        """
        The causes that it tells, and that its exit code fits them.

        It does not wait for the agent as long as the monitor does: if that is answered, the doctor is asked again.
        """
        causes: list[dict[str, Any]] = []

        def told() -> bool:
            done = self.agent.call("doctor", "--json", "--seconds", "1")
            assert done.returncode in (0, 1), done.stdout + done.stderr
            said = json.loads(done.stdout)
            assert said["ok"] == (done.returncode == 0) == all(each["result"] != "fault" for each in said["causes"])
            causes[:] = said["causes"]
            return not any(self.watch.told.values()) or all(each["cause"] != "agent_stuck" for each in causes)

        wait_for(told, "the agent to answer the doctor")
        return causes

    # --- the traffic -------------------------------------------------------------------------------------------------

    def well(self) -> None:
        """Return once every VIP is ready (if an agent runs) and every client gets answers."""
        if self.agent.running:
            self.watch.until(ALL, True, "all is ready")
        self.flowing()

    def flowing(self) -> None:
        """Return once every client gets answers from the VIP."""
        for stream in self.streams.values():
            stream.wait_answered(1)

    def cut(self, after: float, before: float) -> set[str]:
        """The VIPs of which no client got a good answer to what it asked in between."""
        tallies = {address: stream.tally(after, before) for address, stream in self.streams.items()}
        return {address for address, tally in tallies.items() if tally.answered - tally.wrong <= 0}

    # --- its applications --------------------------------------------------------------------------------------------

    def instead(self, name: str, serving: Serving) -> None:
        """Another application than usual: of a VIP (the echo), or "radius", "tacacs" or "web"."""
        self._closing[name].close()
        self.applications[name] = self._closing[name].enter_context(serving())

    def again(self, name: str) -> None:
        """The usual one is back."""
        self.instead(name, self._ordinary[name])


def echo(vip: str, address: str = "") -> Serving:
    """The echo of a VIP, on another *address* if one is given."""
    return lambda: contextlib.closing(Echo(RS1, address or vip, port_of(vip)))


def freeradius(address: str = RADIUS, client: str = LOCAL, password: str = radius.PASSWORD) -> FreeRadius:
    """One that knows this host as a client."""
    return FreeRadius(RS1, [address], {client: SECRET}, password)


class Deaf:
    """Has its sockets on a VIP and never reads from them: an application that hangs."""

    def __init__(self, address: str, port: int, transports: Collection[str] = ("udp", "tcp")) -> None:
        self._address, self._port, self._transports = address, port, transports
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        for transport in self._transports:
            make = udp_socket if transport == "udp" else tcp_socket
            opened = make(RS1, family_of(self._address))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((self._address, self._port))
            if transport == "tcp":
                opened.listen(128)
            self._sockets.append(opened)
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._sockets:
            opened.close()


class Everywhere:
    """RADIUS on all addresses: answers well, from whatever address the route names (FreeRADIUS issue 752)."""

    def __enter__(self) -> Self:
        self._socket = udp_socket(RS1)
        self._socket.bind(("0.0.0.0", radius.AUTH))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            asked = AuthPacket(secret=SECRET.encode(), packet=data, dict=Dictionary())
            answer = asked.CreateReply()
            answer.add_message_authenticator()
            self._socket.sendto(answer.ReplyPacket(), peer)


class Web:
    """A page on `WEB`, with a *status*."""

    def __init__(self, status: str = "200 OK") -> None:
        self._status = status

    def __enter__(self) -> Self:
        self._socket = tcp_socket(RS1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((WEB, parts.WEB_PORT))
        self._socket.listen(128)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2)
                connection.recv(4096)
                text = f"HTTP/1.1 {self._status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                connection.sendall(text.encode())
