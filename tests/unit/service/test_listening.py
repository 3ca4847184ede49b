"""The watch over who listens: what it tells, what it costs, and what it does where the kernel does not tell."""

from __future__ import annotations

import errno
import logging
from collections.abc import Container, Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from dsr_agent.kernel.sockets import Socket
from dsr_agent.service import listeners
from dsr_agent.service.board import Board
from dsr_agent.service.journal import Kind
from dsr_agent.service.listeners import Beat, Listeners, changes
from dsr_agent.state.model import Desired, Vip
from dsr_agent.truth.listeners import Service, ServiceFinding, Standing, Standings, Verdict

SERVICES = tuple(f"udp/{port}" for port in range(1, 9))
VIP = Vip(ip_address("192.0.2.10"), "radius", services=SERVICES)
DESIRED = Desired(vips={VIP.key: VIP})


def standings(verdict: Verdict, services: Iterable[str] = SERVICES[:1]) -> Standings:
    """All of them as seen, and settled."""
    found = {Service(VIP.key, name): ServiceFinding(name, verdict, ("0.0.0.0:1",)) for name in services}
    return {service: Standing(finding, finding.listening) for service, finding in found.items()}


BOUND, WILDCARD, NOBODY = (standings(verdict) for verdict in (Verdict.BOUND, Verdict.WILDCARD, Verdict.NOBODY))


@pytest.mark.parametrize(
    ("before", "now", "kind", "level", "words"),
    [
        ({}, NOBODY, Kind.SERVICE_DOWN, logging.ERROR, "VIP 192.0.2.10: udp/1: nobody listens"),
        (BOUND, NOBODY, Kind.SERVICE_DOWN, logging.ERROR, "VIP 192.0.2.10: udp/1: nobody listens"),
        (NOBODY, BOUND, Kind.SERVICE_UP, logging.INFO, "VIP 192.0.2.10: udp/1: up again, bound to the VIP"),
        ({}, WILDCARD, Kind.WARNED, logging.WARNING, "VIP 192.0.2.10: udp/1: bound to every address (0.0.0.0:1), so"),
        (BOUND, WILDCARD, Kind.WARNED, logging.WARNING, "VIP 192.0.2.10: udp/1: bound to every address (0.0.0.0:1)"),
    ],
)
def test_each_change_of_state_is_one_line(
    before: Standings, now: Standings, kind: Kind, level: int, words: str
) -> None:
    (line,) = changes(before, now, DESIRED)
    assert (line.kind, line.level, line.fields) == (kind, level, (("VIP", "192.0.2.10"),))
    assert line.text.startswith(words)


@pytest.mark.parametrize("state", [BOUND, WILDCARD, NOBODY, {}])
def test_what_stays_as_it_was_is_not_told_again(state: Standings) -> None:
    assert list(changes(state, state, DESIRED)) == []


def test_what_was_fine_from_the_start_is_no_news() -> None:
    assert list(changes({}, BOUND, DESIRED)) == []


def test_many_are_told_as_a_number() -> None:
    lines = list(changes({}, standings(Verdict.NOBODY, SERVICES), DESIRED))
    assert len(lines) == 6
    assert lines[-1].text == (
        "and 3 more services of VIPs, the first udp/6 of 192.0.2.10: nobody listens; see dsr-agent status"
    )


class Table:
    """The kernel's answers, laid out."""

    def __init__(self, *answers: list[Socket] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[list[str], bool]] = []

    def read(self, transports: Iterable[str], ports: Container[int], *, ipv4: bool) -> list[Socket]:
        """See `SocketTable.read`."""
        self.asked.append((list(transports), ipv4))
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def watching(table: Table, vip: Vip, monkeypatch: pytest.MonkeyPatch, interval: float = 0.0) -> tuple[Board, Listeners]:
    """A watch over one VIP."""
    monkeypatch.setattr(listeners, "SocketTable", lambda: table)
    board = Board()
    board.overview = replace(board.overview, desired=Desired(vips={vip.key: vip}), passes=1)
    return board, Listeners(board, Beat(interval, rise=1, fall=2))


ONE = replace(VIP, services=("udp/1",))
HERE = [Socket("udp", 1, VIP.ip)]


async def test_where_the_kernel_does_not_tell_nothing_counts_as_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = OSError(errno.ENOENT, "No such file or directory")
    board, watch = watching(Table([], refused, refused, HERE), ONE, monkeypatch)
    await watch.look()
    assert [each.up for each in board.services.values()] == [False]
    await watch.look()
    await watch.look()
    assert board.services == {}
    assert "the kernel does not tell" in board.services_unknown
    assert caplog.text.count("the kernel does not tell") == 1
    await watch.look()
    assert [each.up for each in board.services.values()] == [True]
    assert board.services_unknown == ""


async def test_without_services_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    board, watch = watching(table := Table(), replace(VIP, services=()), monkeypatch)
    await watch.look()
    assert (table.asked, board.services) == ([], {})


async def test_only_what_is_declared_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One dump of each protocol, and of IPv4 sockets only if there is an IPv4 VIP."""
    for address, ipv4 in (("192.0.2.10", True), ("2001:db8::10", False)):
        vip = Vip(ip_address(address), "v", services=("udp/1", "udp/2", "udp/3"))
        _, watch = watching(table := Table([]), vip, monkeypatch)
        await watch.look()
        assert table.asked == [(["udp"], ipv4)]


async def test_while_nothing_changes_nothing_is_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    board, watch = watching(Table(HERE, list(HERE), []), ONE, monkeypatch)
    await watch.look()
    before = board.services
    await watch.look()
    assert board.services is before
    await watch.look()
    assert board.services is not before


async def test_looks_that_follow_a_repair_bring_nothing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of the regular beat count: a storm of repairs is over sooner than an application's restart."""
    board, watch = watching(Table(HERE, [], [], [], []), ONE, monkeypatch, interval=60.0)
    for _ in range(5):
        await watch.look()
    assert [each.up for each in board.services.values()] == [True]
