"""
Every encapsulation that a balancer can send, over IPv4 and IPv6, for VIPs of both: the matrix that the README has.

Each sender's traffic gets through; what another program does to a tunnel is put right, and meanwhile the self-test says
what is missing; the same packets from somebody else are refused. All tunnels of a file are there at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec

import pytest

from tests.lab import forge
from tests.lab.agent import Agent, agent_settings, has_inet_tables, vip
from tests.lab.cells import FILES, HERE, HERE6, Cell, Declared, File, Marked, Undo
from tests.lab.guarded import refusing
from tests.lab.ledger import Ledger
from tests.lab.marking import send_marked
from tests.lab.marks import BOTH, NOT_UNDER_EMULATION
from tests.lab.matrix import GOOD, NONE, Matrix
from tests.lab.segment import segment
from tests.lab.spaces import inside, run, within
from tests.lab.traffic import Answer, Stream, ask_tcp, ask_udp, client_ip, echoes
from tests.lab.vendors import Form, Made
from tests.lab.world import BALANCER, CLIENT, RS1, Sender, Virtual, route, world
from tests.lab.wrapper import Wrapper

P = ParamSpec("P")

VIPS = {4: "192.0.2.", 6: "2001:db8:f::"}
MEGABYTE = bytes(range(256)) * 4096
PORT = 7001
IN_SYNC = "in sync: nothing to do\n"
# Ports and ARP are polled.
SETTINGS = agent_settings(poll_interval=0.5)


@pytest.fixture(scope="module", params=BOTH)
def matrix(ledger: Ledger) -> Iterator[Matrix]:
    """Of one kernel; printed when all has been tried."""
    found = Matrix()
    yield found
    for line in found.lines():
        ledger.note(line)


@dataclass(frozen=True)
class Running:
    """A file in force, and the VIP of each cell."""

    agent: Agent
    file: File
    addresses: dict[Cell, str]

    def of(self, declared: Declared) -> list[str]:
        """The VIPs that are reached by a tunnel."""
        return [address for cell, address in self.addresses.items() if cell.tunnel == declared.name]


@contextlib.contextmanager
def running(file: File) -> Iterator[Running]:
    """The lab with one of the files."""
    made_up = [f"{VIPS[cell.inner]}{number}" for number, cell in enumerate(file.cells, 10)]
    addresses = dict(zip(file.cells, file.addresses or made_up, strict=True))
    vips = [
        vip(address, **({"dscp": cell.by.code} if isinstance(cell.by, Marked) else {}))
        for cell, address in addresses.items()
    ]
    with contextlib.ExitStack() as stack:
        if file.addresses:
            stack.enter_context(segment())
        else:
            _join(addresses, stack)
        text = SETTINGS + "".join(declared.text for declared in file.tunnels) + "".join(vips)
        agent = stack.enter_context(Agent(RS1, text))
        stack.enter_context(echoes(RS1, addresses.values(), [PORT]))
        yield Running(agent, file, addresses)


def _join(addresses: dict[Cell, str], stack: contextlib.ExitStack) -> None:
    """The network, and a balancer that sends each cell in its way."""
    virtuals = [
        Virtual(address, cell.by, cell.outer) for cell, address in addresses.items() if isinstance(cell.by, str)
    ]
    stack.enter_context(world(virtuals))
    links: dict[Sender | Made, str] = {}
    for cell, address in addresses.items():
        if isinstance(cell.by, Sender | Made):
            if cell.by not in links:
                links[cell.by] = f"s{len(links)}"
                _make(cell.by, links[cell.by], stack)
            route(address, links[cell.by])
    if marked := [(address, RS1, cell.by.code) for cell, address in addresses.items() if isinstance(cell.by, Marked)]:
        send_marked(marked)


def _make(by: Sender | Made, name: str, stack: contextlib.ExitStack) -> None:
    if isinstance(by, Sender):
        by.make(RS1, name)
    else:
        stack.enter_context(Wrapper(name, by.wrap))


@pytest.fixture(scope="module", params=FILES)
def now(matrix: Matrix, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Each file in its turn; in sync at first and at last."""
    file = FILES[request.param]
    if any(isinstance(cell.by, Marked) for cell in file.cells) and not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    with running(file) as found:
        assert found.agent.call("plan").stdout == IN_SYNC
        yield found
        assert found.agent.call("plan").stdout == IN_SYNC


def put(matrix: Matrix, now: Running, column: str, values: dict[Cell, str]) -> None:
    """Into the matrix; and what is wrong fails the test."""
    for cell, value in values.items():
        matrix.put(cell.sender, cell.inner, cell.outer, column, value)
    wrong = [f"{cell}: {value}" for cell, value in values.items() if value not in (GOOD, NONE)]
    assert not wrong, "\n".join([*wrong, now.agent.log()])


def put_for_tunnels(matrix: Matrix, now: Running, column: str, values: dict[str, str]) -> None:
    """The same for what is known of each tunnel by its name: it goes for all that are sent by it."""
    put(matrix, now, column, {cell: values[cell.tunnel] for cell in now.addresses})


def _tried(try_: Callable[P, str | None], *arguments: P.args, **more: P.kwargs) -> str:
    """What it says, or what is wrong."""
    try:
        return try_(*arguments, **more) or GOOD
    except (OSError, AssertionError, RuntimeError) as error:
        return " ".join(str(error).split()) or type(error).__name__


# --- traffic ----------------------------------------------------------------------------------------------------------


def _small(cell: Cell, address: str) -> None:
    assert ask_udp(address, PORT) == Answer(client_ip(address), RS1, address)


def _large(cell: Cell, address: str) -> str | None:
    """The first may be what the balancer finds out the path's MTU by."""
    if not cell.pieces:
        return NONE
    with contextlib.suppress(OSError):
        ask_udp(address, PORT, bytes(4000), timeout=0.5)
    assert ask_udp(address, PORT, bytes(4000)).server == RS1
    return None


def _megabyte(cell: Cell, address: str) -> None:
    assert ask_tcp(address, PORT, MEGABYTE).server == RS1


TRIES: dict[str, Callable[[Cell, str], str | None]] = {"UDP": _small, "UDP 4,000 B": _large, "TCP 1 MB": _megabyte}


@pytest.mark.parametrize("column", ["UDP", "UDP 4,000 B", pytest.param("TCP 1 MB", marks=NOT_UNDER_EMULATION)])
def test_every_sender_gets_through(column: str, now: Running, matrix: Matrix) -> None:
    put(matrix, now, column, {cell: _tried(TRIES[column], cell, address) for cell, address in now.addresses.items()})


# --- forged -----------------------------------------------------------------------------------------------------------


def _forged(cell: Cell, address: str) -> str | None:
    """The same from a stranger; and, where something else can be declared than what was, that from the balancer."""
    if not (cell.form and has_inet_tables()):
        return NONE
    to = HERE if cell.outer == 4 else HERE6
    with refusing("source", 1):
        _send(CLIENT, to, cell.form, _request(address))
    if cell.other:
        with refusing("gre_header", 1):
            _send(BALANCER, to, cell.other, _request(address))
    return None


def _request(address: str) -> bytes:
    """From a client to a VIP, which would be answered."""
    if ":" in address:
        client = "2001:db8:9::9"
        return forge.ip6(client, address, forge.UDP, forge.udp(client, address, PORT, b"forged"))
    client = "203.0.113.9"
    return forge.ip4(client, address, forge.UDP, forge.udp(client, address, PORT, b"forged"))


def _send(space: str, to: str, form: Form, packet: bytes) -> None:
    """Wrapped, behind an IP header that the sender's kernel makes."""
    protocol, data = form(HERE6 if ":" in to else HERE, to, packet)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with within(space, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as raw:
        raw.sendto(data, (to, 0))


def test_a_stranger_is_refused(now: Running, matrix: Matrix) -> None:
    """Wrapped as it is declared, and by somebody else."""
    put(matrix, now, "forged refused", {cell: _tried(_forged, cell, at) for cell, at in now.addresses.items()})


# --- drift, and what the self-test says of it -------------------------------------------------------------------------


def _do(command: str) -> None:
    """Another program, on the real server."""
    with inside(RS1):
        run(*command.split())


def _drift(now: Running, declared: Declared, ledger: Ledger) -> None:
    """Under traffic; then all VIPs of the tunnel are served again."""
    agent, addresses = now.agent, now.of(declared)
    for undo, address in zip(declared.undo, itertools.cycle(addresses), strict=False):
        with Stream(address, PORT, 50) as stream:
            stream.wait_answered(5)
            mark, started = agent.mark(), time.monotonic()
            _do(undo.command)
            agent.wait_log(undo.repaired, mark)
            seconds = time.monotonic() - started
            stream.wait_answered(10)
            tally = stream.finish()
        ledger.add(undo.command, seconds, tally)
        assert tally.wrong == 0
        for each in addresses:
            assert ask_udp(each, PORT).server == RS1


@NOT_UNDER_EMULATION
def test_what_is_undone_is_put_back(now: Running, matrix: Matrix, ledger: Ledger) -> None:
    found = {declared.name: _tried(_drift, now, declared, ledger) for declared in now.file.tunnels}
    put_for_tunnels(matrix, now, "drift repaired", found)


def _fails(now: Running, declared: Declared) -> str | None:
    """While nobody repairs it: the tunnel and what is missing are told, and of other tunnels nothing."""
    agent = now.agent
    assert agent.process
    for undo, address in zip(declared.undo, now.of(declared), strict=False):
        if not undo.result:
            return NONE
        mark = agent.mark()
        os.kill(agent.process.pid, signal.SIGSTOP)
        try:
            _do(undo.command)
            done = agent.call("probe", address, "--json")
        finally:
            os.kill(agent.process.pid, signal.SIGCONT)
        assert done.returncode == 1
        _check(json.loads(done.stdout)["results"], declared, undo)
        agent.wait_log(undo.repaired, mark)
    return None


def _check(rows: list[dict[str, str]], declared: Declared, undo: Undo) -> None:
    for row in rows:
        if row["tunnel"] == declared.name:
            assert (row["result"], undo.reason in row["text"]) == (undo.result, True), row
        elif undo.result != "no_vip" and row["tunnel"] not in declared.shares:
            assert row["result"] == "arrived", row
    assert declared.name in {row["tunnel"] for row in rows}


@NOT_UNDER_EMULATION
def test_the_self_test_says_what_is_missing(now: Running, matrix: Matrix) -> None:
    """And sends nothing."""
    found = {declared.name: _tried(_fails, now, declared) for declared in now.file.tunnels}
    put_for_tunnels(matrix, now, "self-test fails", found)


def _passed(rows: list[dict[str, str]], cell: Cell, address: str) -> str:
    """The VIP by each tunnel; what its own one says counts."""
    said = {row["tunnel"]: row for row in rows if row["vip"] == address}
    others = [row["text"] for row in said.values() if row["result"] not in ("arrived", "nothing_to_test")]
    if others:
        return ", ".join(others)
    return GOOD if said[cell.tunnel]["result"] == "arrived" else NONE


def test_the_self_test_arrives(now: Running, matrix: Matrix) -> None:
    seen = json.loads(now.agent.call("probe", "--json").stdout)["results"]
    put(matrix, now, "self-test passes", {cell: _passed(seen, cell, at) for cell, at in now.addresses.items()})
