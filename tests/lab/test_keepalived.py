"""keepalived in front: it asks ``/readyz/VIP``, so requests go where an application is, and a drain cuts nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest

from tests.lab import radius
from tests.lab.aaa import CLIENTS, RADIUS_SERVICES, more_clients
from tests.lab.agent import Agent, tunnel, vip
from tests.lab.keepalived import HTTP_PORT, Keepalived, Service
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST, ON_A_MACHINE
from tests.lab.radius import FreeRadius
from tests.lab.servers import GRE, IPIP, clean
from tests.lab.sessions import Session, sessions, uncut
from tests.lab.traffic import Echo, Stream
from tests.lab.world import RS1, RS2, SERVER_IP, SERVERS, Virtual, world

pytestmark = ON_A_MACHINE

ECHO_PORT = 7000
ECHO_TCP, ECHO_UDP = (Service(Virtual(IPIP, "ipip"), protocol, ECHO_PORT) for protocol in ("tcp", "udp"))
AUTH, ACCT = (Service(Virtual(GRE, "gre"), "udp", port) for port in radius.PORTS)
ECHO, RADIUS = (ECHO_TCP, ECHO_UDP), (AUTH, ACCT)

VIPS = vip(IPIP, services=[f"tcp/{ECHO_PORT}", f"udp/{ECHO_PORT}"]) + vip(GRE, services=RADIUS_SERVICES)


def config(server: str) -> str:
    """Of the agent on a real server; it is asked where the balancer's monitors can reach it."""
    return f'[http]\nlisten = ["{SERVER_IP[server]}:{HTTP_PORT}"]\n' + tunnel("ipip") + tunnel("gre") + VIPS


@dataclass
class Scene:
    """Who is on stage."""

    agents: dict[str, Agent]
    radius: dict[str, FreeRadius]
    echo: dict[str, Echo]
    keepalived: Keepalived

    def wait_for(self, services: tuple[Service, ...], *servers: str) -> float:
        """Seconds until new requests for all of *services* are sent to just these servers."""
        try:
            return sum(self.keepalived.wait_for(service, *servers) for service in services)
        except TimeoutError as error:
            said = "\n".join(f"{server} said:\n{agent.log()}" for server, agent in self.agents.items())
            raise TimeoutError(f"{error}\n{said}") from None

    def untouched(self, services: tuple[Service, ...]) -> bool:
        """Whether both servers have them."""
        return all(self.keepalived.serving(service) == set(SERVERS) for service in services)


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def scene() -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(world())
        more_clients()
        agents = {server: Agent(server, config(server)) for server in SERVERS}
        for agent in agents.values():
            stack.push(agent.__exit__)
            agent.start(wait=False)
        for agent in agents.values():
            agent.wait_log("started: ")
        found = {server: stack.enter_context(FreeRadius(server, [GRE], CLIENTS)) for server in SERVERS}
        echo = {server: Echo(server, IPIP, ECHO_PORT) for server in SERVERS}
        stack.callback(_close, echo)
        yield Scene(agents, found, echo, stack.enter_context(Keepalived([*ECHO, *RADIUS])))


def _close(echo: dict[str, Echo]) -> None:
    for each in echo.values():
        each.close()


@dataclass
class Logins:
    """Users who log in one after the other; their device asks up to five times, as RADIUS clients do."""

    done: int = 0
    repeated: int = 0
    failed: int = 0
    _closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _ask(self) -> None:
        client, secret = next(iter(CLIENTS.items()))
        while not self._closing.is_set():
            said = radius.ask(GRE, client, secret, *radius.login(), patience=1)
            self.done += 1
            self.repeated += len(said.sent) - 1
            self.failed += not said.answers


def test_what_stops_on_one_server_is_asked_of_the_other(scene: Scene, ledger: Ledger) -> None:
    with Logins() as logins, sessions(IPIP, ECHO_PORT, 4) as running, Stream(IPIP, ECHO_PORT, 50) as stream:
        stream.wait_answered()
        scene.radius[RS1].stop()
        out = scene.wait_for(RADIUS, RS2)
        assert scene.untouched(ECHO)
        before = len(scene.radius[RS2].accepted())
        for client, secret in CLIENTS.items():
            assert radius.ask(GRE, client, secret, *radius.login()).answers
        assert len(scene.radius[RS2].accepted()) >= before + len(CLIENTS)
        scene.radius[RS1].start()
        back = scene.wait_for(RADIUS, *SERVERS)
        assert uncut(running)
        stream.wait_answered()
        others = stream.finish()
    assert logins.failed == 0
    assert clean(others)
    ledger.add("FreeRADIUS stopped on one server: it is sent nothing", out, None)
    ledger.add("... and started; packets of the other VIP", back, others)
    ledger.note(f"meanwhile {logins.done} logins, {logins.repeated} times asked again, none failed")


def test_a_drain_moves_new_sessions_and_cuts_none(scene: Scene, ledger: Ledger) -> None:
    agent = scene.agents[RS1]
    with sessions(IPIP, ECHO_PORT, 6) as running, Stream(IPIP, ECHO_PORT, 100) as stream:
        assert {session.server for session in running} == set(SERVERS)
        stream.wait_answered()
        assert agent.call("drain", IPIP).returncode == 0
        out = scene.wait_for(ECHO, RS2)
        with sessions(IPIP, ECHO_PORT, 6) as new:
            assert {session.server for session in new} == {RS2}
            assert uncut([*running, *new])
            assert scene.untouched(RADIUS)
            stream.wait_answered()
            assert agent.call("undrain", IPIP).returncode == 0
            back = scene.wait_for(ECHO, *SERVERS)
            with sessions(IPIP, ECHO_PORT, 6) as newest:
                assert {session.server for session in newest} == set(SERVERS)
                assert uncut([*running, *new, *newest])
        stream.wait_answered()
        tally = stream.finish()
    assert clean(tally)
    exchanges = sum(session.exchanges for session in running)
    ledger.add("a VIP drained on one server: it is sent nothing new", out, None)
    ledger.add("... and undrained; packets of all this time", back, tally)
    ledger.note(f"6 sessions went on meanwhile, {exchanges} times something said and answered, none was cut")


def test_datagrams_are_lost_only_until_the_balancer_knows(scene: Scene, ledger: Ledger) -> None:
    with sessions(IPIP, ECHO_PORT, 6) as running, Stream(IPIP, ECHO_PORT, 100) as stream:
        elsewhere = [session for session in running if session.server == RS2]
        stream.wait_answered()
        scene.echo[RS1].close()
        out = scene.wait_for(ECHO, RS2)
        stream.wait_answered(100)
        others = [Session(IPIP, ECHO_PORT) for _ in range(4)]
        assert {session.server for session in others} == {RS2}
        scene.echo[RS1] = Echo(RS1, IPIP, ECHO_PORT)
        back = scene.wait_for(ECHO, *SERVERS)
        assert uncut([*elsewhere, *others])
        for session in others:
            session.close()
        stream.wait_answered(100)
        tally = stream.finish()
    assert 0 < tally.lost < tally.sent / 2
    ledger.add("a VIP's application stopped: it is sent nothing", out, None)
    ledger.add("... and started; packets of all this time", back, tally)
