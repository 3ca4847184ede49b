"""Who is asked, when, from where, and what is kept: the doers are laid out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.desired import address_of
from dsr_agent.service.board import Board
from dsr_agent.service.checks import schedule
from dsr_agent.service.checks.asking import Target
from dsr_agent.service.checks.memory import Memory, read, text_of
from dsr_agent.service.checks.schedule import Checks
from dsr_agent.service.checks.sources import Sources
from dsr_agent.service.checks.telling import Telling
from dsr_agent.service.overview import Overview
from dsr_agent.service.web.endpoints import Endpoints
from dsr_agent.state.local import LocalAddress
from dsr_agent.state.model import Address, Desired, Link, Observed, Tunnel, Vip
from dsr_agent.truth.checks import Answer, Asked, Checked, FailureReason
from tests.unit.service.reports import VIP1, VIP2, desired, observed, report

SILENT = Answer(FailureReason.TIMEOUT, "no answer", "it hangs")
A, B = Vip(ip_address("192.0.2.1"), "a", services=("tcp/49",)), Vip(ip_address("192.0.2.2"), "b")


def check(**keys: Any) -> CheckSettings:
    """A check that is asked again at once."""
    made = CheckSettings.model_validate({"protocol": "tacacs", **keys})
    return made.model_copy(update={"interval": 0.0})


def overview(*vips: Vip, missing: tuple[Vip, ...] = ()) -> Overview:
    """These in the file, and on this host but for those that are *missing*."""
    there = {vip.key: address_of(vip) for vip in vips if vip not in missing}
    return Overview(Desired(vips={vip.key: vip for vip in vips}), Observed(addresses=there), passes=1)


class Asking:
    """Answers what is laid out, and knows who was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[Target] = []
        self.at_once = self.most = 0
        self.news = asyncio.Event()

    async def __call__(self, one: CheckSettings, target: Target) -> Answer:
        self.asked.append(target)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.news.set()
        return self.answers.get(str(target.ip), Answer())

    async def until(self, condition: Any) -> None:
        """Wait for it, answer by answer."""
        async with asyncio.timeout(30):
            while not condition():
                self.news.clear()
                await self.news.wait()
                await asyncio.sleep(0)


@asynccontextmanager
async def watching(
    board: Board, *checks: CheckSettings, path: Path = Path("/nonexistent/checks.json")
) -> AsyncIterator[tuple[Checks, Asking]]:
    """The schedule, while it runs."""
    asking = Asking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "ask", asking)
        watch = Checks(board, checks, Memory(path))
        await watch.load()
        task = asyncio.create_task(watch.watch())
        try:
            yield watch, asking
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def on(board: Board, vip: Vip, name: str = "tacacs") -> Checked:
    return board.checks.get(vip.ip, {}).get(name, Checked())


async def test_only_who_declares_the_service_is_asked_or_who_is_named() -> None:
    board = Board(overview=overview(A, B))
    async with watching(board, check()) as (watch, asking):
        await asking.until(lambda: on(board, A).up)
        assert {str(target) for target in asking.asked} == {"192.0.2.1:49"}
        watch.wanted = (check(vips=("b",)),)
        watch.changed.set()
        await asking.until(lambda: on(board, B).up)
        assert list(board.checks) == [B.ip]


async def test_a_vip_that_is_not_here_is_not_asked() -> None:
    """The question would go wherever the route goes."""
    both = replace(B, services=("tcp/49",))
    board = Board(overview=overview(A, both, missing=(both,)))
    async with watching(board, check()) as (_, asking):
        await asking.until(lambda: len(asking.asked) > 50)
    assert {target.ip for target in asking.asked} == {A.ip}


async def test_one_that_has_fallen_makes_its_own_vip_unready_until_it_answers_again() -> None:
    board = Board(overview=overview(A, B))
    answers = Endpoints(board)
    async with watching(board, check(), check(name="other", vips=("b",))) as (_, asking):
        asking.answers[str(A.ip)] = SILENT
        await asking.until(lambda: on(board, A).up is False and on(board, B, "other").up)
        ready = {ip: not why for ip, why in answers.reasons(board.overview)}
        assert ready == {A.ip: False, B.ip: True}
        assert b"192.0.2.1/32 on lo: tacacs check: no answer, " in answers("/readyz").body
        del asking.answers[str(A.ip)]
        await asking.until(lambda: on(board, A).up)
        assert answers("/readyz").status == 200


async def test_a_reload_keeps_what_is_known_also_of_a_check_that_changes() -> None:
    board = Board(overview=overview(A))
    async with watching(board, check()) as (watch, asking):
        asking.answers[str(A.ip)] = SILENT
        await asking.until(lambda: on(board, A).up is False)
        watch.wanted = (check(timeout=1.0, fall=100),)
        watch.changed.set()
        before = len(asking.asked)
        await asking.until(lambda: len(asking.asked) > before + 5)
        assert on(board, A).up is False
        watch.wanted = (check(name="new"),)
        watch.changed.set()
        await asking.until(lambda: list(board.checks[A.ip]) == ["new"])


async def test_a_restart_keeps_what_had_fallen(tmp_path: Path) -> None:
    path = tmp_path / "checks.json"
    board = Board(overview=overview(A))
    async with watching(board, check(), path=path) as (_, asking):
        asking.answers[str(A.ip)] = SILENT
        await asking.until(lambda: path.exists() and read(path.read_text()))
    again = Board(overview=overview(A))
    watch = Checks(again, (check(),), Memory(path))
    await watch.load()
    assert on(again, A).why_not("tacacs") == "tacacs check: no answer (it hangs)"
    async with watching(again, check(), path=path) as (_, asking):
        await asking.until(lambda: on(again, A).up and not read(path.read_text()))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fallen": 3}', '{"fallen": [{"vip": "x"}]}', "[" * 100_000])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checks.json").write_text(text)
    assert Memory(tmp_path / "checks.json").load() == {}
    assert "is damaged" in caplog.text


def test_what_answers_is_not_kept() -> None:
    up, down = Checked().after(Answer(), 1, 1), Checked().after(SILENT, 1, 1)
    found: Mapping[Any, Any] = read(text_of({A.ip: {"x": up, "y": down}, B.ip: {"x": Checked()}}))
    assert {ip: list(by) for ip, by in found.items()} == {A.ip: ["y"]}


async def test_no_more_than_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_MOST_AT_ONCE", 3)
    vips = [Vip(ip_address(f"192.0.2.{n}"), str(n), services=("tcp/49",)) for n in range(1, 41)]
    board = Board(overview=overview(*vips))
    async with watching(board, check()) as (_, asking):
        await asking.until(lambda: {target.ip for target in asking.asked} == {vip.ip for vip in vips})
        assert asking.most == 3


def test_many_changes_at_once_are_told_as_a_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = [0.0]
    telling = Telling(lambda: now[0])
    down = Checked().after(SILENT, 1, 1)
    for n in range(20):
        telling.changed(Asked(ip_address(f"192.0.2.{n}"), "radius"), Checked(), down)
    telling.flush()
    assert len(caplog.records) == 6
    assert caplog.records[0].getMessage() == "VIP 192.0.2.0: radius check: no answer (it hangs)"
    assert caplog.records[-1].getMessage().startswith("and 15 more changes of checks within 5 s")
    now[0] = 6.0
    telling.changed(Asked(A.ip, "radius"), down, down.after(Answer(), 1, 1))
    assert caplog.records[-1].getMessage() == f"VIP {A.ip}: radius check: answers again"


def test_questions_come_from_where_tunnelled_packets_arrive() -> None:
    after = Overview().after(report())
    six = Address("eth0", ip_address("2001:db8:1::2"), 64)
    gone = Address("eth0", ip_address("2001:db8:1::1"), 64, deprecated=True)
    more = replace(after.observed, addresses={**after.observed.addresses, six.key: six, gone.key: gone})
    one, two = after.desired.vips.values()
    assert [str(Sources(after).of(vip)) for vip in (one, two)] == ["10.0.0.2", "::1"]
    assert str(Sources(replace(after, observed=more)).of(two)) == "2001:db8:1::2"
    elsewhere = Address("a0", one.ip, 32)  # a VIP that somebody else put there, unmarked
    more = replace(more, addresses={elsewhere.key: elsewhere, **more.addresses})
    assert str(Sources(replace(after, observed=more)).of(replace(one, tunnels=()))) == "10.0.0.2"
    bare = replace(after, desired=desired(VIP1, VIP2, tunnels=()), observed=observed(VIP1, VIP2))
    assert str(Sources(bare).of(replace(one, tunnels=()))) == "10.0.0.2"
    assert str(Sources(overview(A)).of(A)) == "127.0.0.1"


def test_questions_in_a_vrf_come_from_an_address_in_it() -> None:
    """Not from where the packets arrive, if that is outside of it."""
    blue = ip_address("10.4.0.2")
    links = {"blue": Link("blue", "vrf", up=True), "eth1": Link("eth1", master="blue"), "eth0": Link("eth0")}
    addresses = {each.key: each for each in (Address("eth1", blue, 24), Address("eth0", ip_address("10.0.0.2"), 24))}
    vip = Vip(ip_address("192.0.2.10"), "in", "blue", ("t",), vrf="blue")
    for local, source in (("10.0.0.2", blue), ("10.4.0.2", blue)):
        file = Desired({"t": Tunnel("t", "gre", LocalAddress(ip_address(local)), vrf="blue")}, {vip.key: vip})
        seen = Overview(desired=file, observed=Observed(links, addresses))
        assert Sources(seen).of(vip) == source
        assert str(Sources(seen).of(replace(vip, vrf="", tunnels=()))) == "10.0.0.2"
        assert str(Sources(seen).of(replace(vip, vrf="red", tunnels=()))) == "127.0.0.1"
