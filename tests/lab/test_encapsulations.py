"""
Every encapsulation that a balancer can send, over IPv4 and IPv6, for VIPs of both: traffic by real senders.

IPVS sends what it can; the rest comes from links of the balancer's own kernel. All tunnels of a file are there at once.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.traffic import Answer, ask_tcp, ask_udp, client_ip, echoes
from tests.lab.world import BALANCER_IP6, RS1, SERVER_IP, SERVER_IP6, Sender, Virtual, route, world
from tests.lab.wrapper import Head, Wrapper, gue, nothing

MEGABYTE = bytes(range(256)) * 4096
PORT = 7001
OVER6 = {"load_balancers": [BALANCER_IP6]}


@dataclass(frozen=True)
class InUdp:
    """What a `Wrapper` sends: to which port, and what stands before the packet."""

    port: int
    head: Head
    outer: int = 4


@dataclass(frozen=True)
class Cell:
    """How one VIP is reached: by IPVS, by a link of the balancer's kernel, or wrapped by hand."""

    how: str
    inner: int
    outer: int = 4
    by: Sender | InUdp | None = None

    def __str__(self) -> str:
        return f"{self.how}, IPv{self.inner} in IPv{self.outer}"


EVERY = [(outer, inner) for outer in (4, 6) for inner in (4, 6)]
GRE = {4: "gre", 6: "ip6gre"}


def _ipvs(*hows: str) -> list[Cell]:
    return [Cell(how, inner, outer) for how in hows for outer, inner in EVERY]


def _gre(how: str, form: str, outer: int) -> list[Cell]:
    """The link's own key for the other direction, in which nothing comes, tells it from other links."""
    return [Cell(how, inner, outer, Sender(GRE[outer], outer, f"{form} ikey 4711")) for inner in (4, 6)]


def _udp(how: str, port: int, head: Head) -> list[Cell]:
    return [Cell(how, inner, outer, InUdp(port, head, outer)) for outer, inner in EVERY]


def _over_both(*kinds: str, **values: object) -> str:
    return "".join(tunnel(kind, **values, **more) for kind in kinds for more in ({}, OVER6))


# As github's glb-director does: type 0, the next hop's index, and two more servers (peers (c)).
GLB = struct.pack(">HBB4s4s", 0, 0, 2, b"\x0a\x03\x00\x0c", b"\x0a\x03\x00\x0d")

# Every file, with what is sent to it: what cannot stand beside each other in one file is in another one.
FILES: dict[str, tuple[str, list[Cell]]] = {
    "plain": (
        _over_both("ipip", "gre", "gue"),
        [
            *_ipvs("ipip", "gre", "gue", "gue-csum", "gue-remcsum"),
            *[
                Cell("ip6tnl with an encapsulation limit", inner, 6, Sender("ip6tnl", 6, "encaplimit 4 mode any"))
                for inner in (4, 6)
            ],
            *_gre("gre, numbered", "oseq", 4),
            *_gre("gre, numbered", "oseq", 6),
        ],
    ),
    "checksums": (_over_both("gre", checksum=True), _ipvs("gre-csum")),
    "keys": (
        tunnel("gre", key=7) + tunnel("gre", key=8, checksum=True, **OVER6),
        [*_gre("gre, key 7", "okey 7", 4), *_gre("gre, key 8, checksum, numbered", "okey 8 ocsum oseq", 6)],
    ),
    "udp": (
        _over_both("gue", port=19523) + _over_both("fou", port=5555) + _over_both("ipip"),
        [*_udp("fou", 5555, nothing), *_udp("gue as glb-director sends it", 19523, gue(GLB)), *_ipvs("ipip")],
    ),
}


def _address(number: int, version: int) -> str:
    return f"192.0.2.{10 + number}" if version == 4 else f"2001:db8:f::{10 + number}"


@dataclass(frozen=True)
class Running:
    """A file in force, and the VIP of each cell."""

    agent: Agent
    addresses: dict[Cell, str]


@contextlib.contextmanager
def running(name: str) -> Iterator[Running]:
    """The lab with one of the files."""
    tunnels, cells = FILES[name]
    addresses = {cell: _address(number, cell.inner) for number, cell in enumerate(cells)}
    virtuals = [Virtual(address, cell.how, cell.outer) for cell, address in addresses.items() if not cell.by]
    links: dict[Sender | InUdp, str] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(world(virtuals))
        for cell, address in addresses.items():
            if cell.by and cell.by not in links:
                links[cell.by] = f"s{len(links)}"
                _make(cell.by, links[cell.by], stack)
            if cell.by:
                route(address, links[cell.by])
        agent = stack.enter_context(Agent(RS1, tunnels + "".join(map(vip, addresses.values()))))
        stack.enter_context(echoes(RS1, addresses.values(), [PORT]))
        yield Running(agent, addresses)


def _make(by: Sender | InUdp, name: str, stack: contextlib.ExitStack) -> None:
    if isinstance(by, Sender):
        by.make(RS1, name)
    else:
        server = (SERVER_IP if by.outer == 4 else SERVER_IP6)[RS1]
        stack.enter_context(Wrapper(name, server, by.port, by.head))


@pytest.fixture(scope="module", params=BOTH)
def lane() -> None:
    """On which kernel."""


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("name", FILES)
def test_each_gets_through(name: str, ledger: Ledger) -> None:
    """Small and large datagrams, and a megabyte there and back."""
    failed = []
    with running(name) as now:
        assert now.agent.call("plan").stdout == "in sync: nothing to do\n"
        for cell, address in now.addresses.items():
            results = {what: _tried(try_, address) for what, try_ in TRIES.items()}
            ledger.note(f"{cell}: " + ", ".join(f"{what} {result}" for what, result in results.items()))
            failed += [f"{cell}: {what}: {result}" for what, result in results.items() if result != "ok"]
        seen = json.loads(now.agent.call("probe", "--json").stdout)["results"]
        failed += [f"self-test: {row}" for row in seen if row["result"] != "arrived"]
        ledger.note(f"self-test of {name}: {len(seen)} of {len(seen)} arrived" if not failed else f"{name}: {failed}")
        if failed:
            failed.append(now.agent.log())
    assert not failed, "\n".join(failed)


def _small(address: str) -> None:
    assert ask_udp(address, PORT, timeout=3) == Answer(client_ip(address), RS1, address)


def _large(address: str) -> None:
    """The first may be what the balancer finds out the path's MTU by."""
    with contextlib.suppress(OSError):
        ask_udp(address, PORT, bytes(4000), timeout=0.5)
    assert ask_udp(address, PORT, bytes(4000), timeout=3).server == RS1


def _megabyte(address: str) -> None:
    assert ask_tcp(address, PORT, MEGABYTE).server == RS1


TRIES: dict[str, Callable[[str], None]] = {"UDP": _small, "UDP 4,000 B": _large, "TCP 1 MB": _megabyte}


def _tried(try_: Callable[[str], None], address: str) -> str:
    try:
        try_(address)
    except (OSError, AssertionError) as error:
        return str(error) or type(error).__name__
    return "ok"
