"""Healthy traffic, and what operators do all day: nobody is ever told that a VIP is not ready."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from tests.lab.agent import Agent, tunnel, vip, wait_for
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import PORT, VIPS, WRAPPED, clean, real_server, streams, total
from tests.lab.spaces import ip, within
from tests.lab.world import RS1, Virtual

# An hour in the long campaign; else a few rounds.
SECONDS = float(os.environ.get("DSR_LAB_SECONDS", "3600" if os.environ.get("DSR_LONG") else "20"))

COMES_AND_GOES = "192.0.2.20"
SERVICES = [f"udp/{PORT}", f"tcp/{PORT}"]
QUICK = "[probe]\nrate = 100\ninterval = 0.5\n[listeners]\ninterval = 0.5\n"
CONFIG = QUICK + tunnel("ipip") + tunnel("gre") + "".join(vip(address, services=SERVICES) for address in VIPS)
MORE = CONFIG + vip(COMES_AND_GOES, services=SERVICES)

# A pass between two looks would go unseen otherwise; a balancer asks every few seconds.
_EVERY = 0.05


class Monitor:
    """
    A balancer's monitor that asks for ``/readyz`` and for each VIP, over and over, and keeps every 503.

    While nobody answers (the agent is being restarted) a balancer waits for its next try; so does this.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.alarms: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        for path in itertools.cycle(["/readyz", *(f"/readyz/{address}" for address in VIPS)]):
            if self._done.wait(_EVERY):
                return
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = _get(path)
                self.asked += 1
                if status != 200:
                    self.alarms.append(f"{time.monotonic() - started:.1f} s: {path}: {status} {body}")


def _get(path: str) -> tuple[int, str]:
    asking = http.client.HTTPConnection("127.0.0.1", 9177)
    with contextlib.closing(asking):
        asking.sock = within(RS1, lambda: socket.create_connection(("127.0.0.1", 9177), 10))
        asking.request("GET", path)
        answer = asking.getresponse()
        return answer.status, answer.read().decode()


def answers(agent: Agent) -> None:
    """Wait until somebody answers."""

    def there() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return _get("/livez")[0] == 200
        return False

    wait_for(there, "the agent answers")


# --- what operators do ------------------------------------------------------------------------------------------------


def a_vip_more(agent: Agent) -> None:
    agent.reload(MORE)


def a_vip_less(agent: Agent) -> None:
    agent.reload(CONFIG)


def the_same_file(agent: Agent) -> None:
    agent.reload()


def a_bad_file(agent: Agent) -> None:
    agent.reload("[[vip]]\n", "going on as before")
    agent.write(CONFIG)


def a_restart(agent: Agent) -> None:
    agent.stop()
    agent.start()
    answers(agent)


def a_crash(agent: Agent) -> None:
    agent.stop(signal.SIGKILL)
    agent.start()
    answers(agent)


def other_addresses_and_links(agent: Agent) -> None:
    ip(RS1, "link add other0 type dummy")
    ip(RS1, "link set other0 up")
    ip(RS1, "address add 10.99.0.1/24 dev other0")
    ip(RS1, "route add 10.98.0.0/24 via 10.99.0.2")
    ip(RS1, "link del other0")


def a_look(agent: Agent) -> None:
    assert agent.call("status").returncode == 0
    assert agent.call("probe").returncode == 0


DONE: tuple[Callable[[Agent], None], ...] = (
    *(the_same_file, a_vip_more, a_look, a_restart, a_vip_less),
    *(other_addresses_and_links, a_crash, a_bad_file),
)


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[None]:
    with real_server((*WRAPPED, Virtual(COMES_AND_GOES, "ipip"))):
        yield


@pytest.mark.timeout(SECONDS + 240)
def test_readyz_is_never_false_while_all_is_well(server: None, ledger: Ledger) -> None:
    with Agent(RS1, CONFIG) as agent:
        answers(agent)
        with streams(rate=20) as found, Monitor() as monitor:
            started, rounds = time.monotonic(), 0
            while not rounds or time.monotonic() - started < SECONDS:
                for do in DONE:
                    do(agent)
                rounds += 1
            tally = total(found)
        assert not monitor.alarms, "\n".join(monitor.alarms[:20])
        assert monitor.asked > rounds * len(DONE)
        assert clean(tally)
    minutes = (time.monotonic() - started) / 60
    ledger.add(f"healthy: {rounds} rounds of {len(DONE)} changes in {minutes:.1f} min", None, tally)
    ledger.note(f"asked {monitor.asked} times for readiness, never told 503")
