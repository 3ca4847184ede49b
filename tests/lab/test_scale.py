"""Ten thousand VIPs: the cost of a change is that of the change."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from dsr_agent.kernel.addresses import pack
from dsr_agent.kernel.netlink import RTM_DELADDR, RTM_NEWADDR, Channel
from dsr_agent.state.marks import owns_address
from dsr_agent.state.model import Address
from tests.lab.agent import Agent, agent_settings, tunnel, vip
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger, duration
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import IPIP, PORT, real_server
from tests.lab.spaces import ip, within
from tests.lab.traffic import Stream
from tests.lab.world import RS1, Virtual

MANY = 10_000

_REQUEST = 1


def config(vips: int) -> str:
    text = "[probe]\nenabled = false\n"  # what is counted here is what repairs cost
    text += agent_settings(resync_interval=3600, poll_interval=60) + tunnel("ipip") + vip(IPIP)
    return text + "".join(vip(f"192.0.{128 + number // 250}.{number % 250 + 1}") for number in range(vips))


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def server() -> Iterator[Eye]:
    with real_server([Virtual(IPIP, "ipip")]) as eye:
        ip(RS1, "link add nlmon0 type nlmon")
        ip(RS1, "link set nlmon0 up")
        yield eye


class Requests:
    """Every netlink request made in the namespace from now on, whoever made it."""

    def __init__(self) -> None:
        self._socket = within(RS1, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.bind(("nlmon0", 0))
        self._socket.setblocking(False)

    def so_far(self) -> list[int]:
        """Their types; each call tells what came since the last."""
        found: list[int] = []
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return found
            while len(data) >= 16:
                length, kind, flags = struct.unpack_from("=IHH", data)
                if flags & _REQUEST and kind >= 16:
                    found.append(kind)
                data = data[(length + 3) & ~3 :]

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def delete_one(address: str) -> None:
    """By exactly one request."""
    with contextlib.closing(within(RS1, Channel)) as channel:
        answers = channel.request([(RTM_DELADDR, 0, pack(Address("lo", ip_address(address), 32), 1))])
    assert answers == [None]


def ours_on_lo(eye: Eye) -> int:
    return sum(1 for at in eye.addresses() if at.link == "lo" and owns_address(at))


@pytest.mark.timeout(280)
def test_ten_thousand(server: Eye, ledger: Ledger) -> None:
    with Agent(RS1, config(100)) as agent, contextlib.closing(Requests()) as requests:
        agent.settle()
        few = _repair_of_one(agent, requests, ledger, 100)
        mark = agent.mark()
        agent.reload(config(MANY))
        ledger.note(f"{MANY} VIPs: {agent.wait_log('read the file again', mark).split(' INFO ')[1]}")
        assert ours_on_lo(server) == MANY + 1
        agent.settle()
        many = _repair_of_one(agent, requests, ledger, MANY)
        assert few == many == [RTM_NEWADDR]
        _flush_all(server, agent, ledger)
        mark = agent.mark()
        agent.reload(config(0))
        ledger.note(f"back to one: {agent.wait_log('read the file again', mark).split(' INFO ')[1]}")
        assert ours_on_lo(server) == 1


def _repair_of_one(agent: Agent, requests: Requests, ledger: Ledger, vips: int) -> list[int]:
    """The types of the requests that the agent makes to put one VIP back among *vips*."""
    requests.so_far()
    mark, started = agent.mark(), time.monotonic()
    delete_one("192.0.128.50")
    agent.wait_log("192.0.128.50", mark)
    seconds = time.monotonic() - started
    agent.settle()
    found = requests.so_far()
    found.remove(RTM_DELADDR)  # the deletion itself
    ledger.note(f"one of {vips} VIPs deleted: put back after {duration(seconds)} by {len(found)} netlink request(s)")
    return found


def _flush_all(server: Eye, agent: Agent, ledger: Ledger) -> None:
    with Stream(IPIP, PORT, 100) as stream:
        stream.wait_answered()
        ip(RS1, "addr flush dev lo label lo:dsr")
        started = time.monotonic()
        while ours_on_lo(server) < MANY + 1:
            assert time.monotonic() - started < 120, "the VIPs are not all back"
            time.sleep(0.5)  # reading them all is work as well, for a single processor
        seconds = time.monotonic() - started
        stream.wait_answered()
        tally = stream.finish()
    agent.settle()
    ledger.add(f"all of {MANY} VIPs flushed", seconds, tally)
