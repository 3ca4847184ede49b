"""The self-test beside the loop, on a clock of its own: its budget, what it makes of results, and when it is off."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from dsr_agent.config.desired import address_of
from dsr_agent.config.settings import ProbeSettings
from dsr_agent.service.board import Board
from dsr_agent.service.probing import SelfTest
from dsr_agent.service.web.endpoints import Endpoints
from dsr_agent.state.count import Count
from dsr_agent.state.errors import NotPermitted
from dsr_agent.state.local import LocalTowards
from dsr_agent.state.model import Desired, Observed, Tunnel, Vip
from dsr_agent.state.probe import Seen, Shot, Sight
from dsr_agent.state.table import ObservedGuard, Table
from tests.fake.clock import FakeClock
from tests.unit.service.reports import desired, observed, report

MANY = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(1000)]
SETTINGS = ProbeSettings(rate=10, interval=5, timeout=1, fall=3, rise=2)


@dataclass
class FakeProber:
    """Takes note of what is sent; what `ill` says of a VIP becomes of its packets, the others arrive at once."""

    clock: FakeClock
    sent: list[tuple[float, str]] = field(default_factory=list)
    ill: dict[str, Seen] = field(default_factory=dict)
    closed: bool = False

    async def fire(self, shot: Shot, patience: float, *, evidence: bool = False) -> Sight:
        """See `kernel.probe.Prober.fire`."""
        self.sent.append((self.clock.now(), str(shot.vip)))
        what = self.ill.get(str(shot.vip), Seen.ARRIVED)
        if what is Seen.LOST:
            await self.clock.sleep(patience)
        return Sight(what, shot.link if what is Seen.ARRIVED else "", "" if what is Seen.ARRIVED else "no")

    def close(self) -> None:
        """See there."""
        self.closed = True


@dataclass
class Scene:
    """A self-test that runs, and what it is made of."""

    clock: FakeClock
    board: Board
    prober: FakeProber
    self_test: SelfTest

    def ready(self, path: str = "/readyz") -> bool:
        """What is answered."""
        return Endpoints(self.board)(path).status == 200


@asynccontextmanager
async def scene(
    wanted: Desired,
    settings: ProbeSettings = SETTINGS,
    refuse: Callable[[], None] = lambda: None,
    saw: Observed | None = None,
) -> AsyncIterator[Scene]:
    """A host that is as *wanted*, or as *saw* says, and its self-test."""
    clock = FakeClock()
    board = Board(clock=lambda: 0.0)
    addresses = [str(key.ip) for key in wanted.vips]
    board.add(report(wanted=wanted, saw=saw or observed(*addresses)))
    prober = FakeProber(clock)

    def make(port: int) -> FakeProber:
        refuse()
        prober.closed = False
        return prober

    made = Scene(clock, board, prober, SelfTest(board, settings, clock, make))
    running = asyncio.create_task(made.self_test.run())
    await clock.settle()
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert prober.closed or not prober.sent


def few(*addresses: str) -> Desired:
    return desired(*(addresses or MANY[:2]))


def run(story: Callable[[], object]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_a_thousand_vips_come_in_turn_within_the_budget() -> None:
    async def story() -> None:
        async with scene(desired(*MANY)) as here:
            here.prober.ill = dict.fromkeys(MANY[:500], Seen.LOST)
            start = here.clock.now()
            await here.clock.advance(200)
            sent = here.prober.sent
            assert len(sent) <= 10 * 200 + 1
            assert len(sent) >= 10 * 200 - 10, "the budget is used"
            per_second = Counter(int(at - start) for at, _ in sent)
            assert max(per_second.values()) <= 11
            assert {vip for _, vip in sent} == set(MANY), "half of them in doubt keep nobody from their turn"

    run(story)


def test_few_vips_are_tried_every_interval_and_no_more() -> None:
    async def story() -> None:
        async with scene(few()) as here:
            await here.clock.advance(52)
            assert Counter(vip for _, vip in here.prober.sent) == dict.fromkeys(MANY[:2], 11)
            probes = here.board.probes
            assert (probes.pairs, probes.sent, probes.lost, probes.fallen, probes.off) == (2, 22, 0, {}, "")

    run(story)


def test_one_lost_packet_says_nothing() -> None:
    async def story() -> None:
        async with scene(few()) as here:
            await here.clock.advance(4)
            here.prober.ill = {MANY[0]: Seen.LOST}
            await here.clock.advance(2.5)
            here.prober.ill = {}
            await here.clock.advance(20)
            assert here.board.probes.lost in (1, 2)
            assert here.board.probes.fallen == {}
            assert here.ready()

    run(story)


@pytest.mark.parametrize("what", [Seen.LOST, Seen.ELSEWHERE, Seen.NO_TUNNEL, Seen.NO_VIP])
def test_it_falls_after_so_many_and_rises_again(what: Seen, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with scene(few()) as here:
            await here.clock.advance(4)
            here.prober.ill = {MANY[0]: what}
            before = len(here.prober.sent)
            while here.ready() and here.clock.now() < 1100:
                await here.clock.advance(0.1)
            tries = [vip for _, vip in here.prober.sent[before:] if vip == MANY[0]]
            assert len(tries) == SETTINGS.fall
            assert here.clock.now() - 1004 <= SETTINGS.interval + SETTINGS.fall * SETTINGS.timeout
            assert not here.ready(f"/readyz/{MANY[0]}")
            assert here.ready(f"/readyz/{MANY[1]}")
            here.prober.ill = {}
            await here.clock.advance(SETTINGS.interval + SETTINGS.rise * SETTINGS.timeout + 1)
            assert here.ready()

    caplog.set_level(logging.INFO, "dsr_agent")
    run(story)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == ["self-test", "self-test"]
    assert lines[1].endswith("arrives again")


@pytest.mark.parametrize("what", [Seen.UNKNOWN, Seen.REFUSED])
def test_what_cannot_be_sent_says_nothing_and_is_told_once(what: Seen, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with scene(few()) as here:
            await here.clock.advance(4)
            here.prober.ill = dict.fromkeys(MANY[:2], what)
            await here.clock.advance(100)
            assert here.ready()
            assert (here.board.probes.silent, here.board.probes.lost) == ("no", 0)
            here.prober.ill = {}
            await here.clock.advance(10)
            assert here.board.probes.silent == ""

    run(story)
    assert [record.getMessage() for record in caplog.records] == ["the self-test says nothing: no"]


def test_a_thousand_that_fall_together_are_ten_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with scene(desired(*MANY)) as here:
            here.prober.ill = dict.fromkeys(MANY, Seen.LOST)
            await here.clock.advance(500)
            assert len(here.board.probes.fallen) == 1000
            here.prober.ill = {}
            await here.clock.advance(400)
            assert here.ready()

    caplog.set_level(logging.INFO, "dsr_agent")
    run(story)
    assert len(caplog.records) == 11


def test_who_may_not_is_told_once_and_asked_again_at_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    refusals = [NotPermitted("no packet can be sent", "CAP_NET_RAW")]

    def refuse() -> None:
        if refusals:
            raise refusals[0]

    async def story() -> None:
        async with scene(few(), refuse=refuse) as here:
            await here.clock.advance(100)
            assert "CAP_NET_RAW" in here.board.probes.off
            assert here.ready()
            assert len(caplog.records) == 1
            refusals.clear()
            here.self_test.change(SETTINGS)
            await here.clock.advance(1)
            assert (here.board.probes.off, len(here.prober.sent)) == ("", 2)

    run(story)


def test_switched_off_nothing_is_known_any_more() -> None:
    async def story() -> None:
        async with scene(few()) as here:
            here.prober.ill = dict.fromkeys(MANY[:2], Seen.LOST)
            await here.clock.advance(10)
            assert not here.ready()
            here.self_test.change(replace_settings(enabled=False))
            await here.clock.advance(1)
            assert here.prober.closed
            assert here.ready()
            assert (here.board.probes.reaches, here.board.probes.off) == ({}, "the file wants none")

    run(story)


def replace_settings(**values: object) -> ProbeSettings:
    return SETTINGS.model_copy(update=values)


def test_a_vip_that_leaves_the_file_is_not_tried_any_more() -> None:
    async def story() -> None:
        async with scene(few()) as here:
            here.prober.ill = {MANY[0]: Seen.LOST}
            await here.clock.advance(10)
            assert not here.ready()
            here.board.add(report(wanted=few(MANY[1]), saw=observed(MANY[1])))
            here.self_test.looked()
            await here.clock.settle()
            before = len(here.prober.sent)
            await here.clock.advance(20)
            assert {vip for _, vip in here.prober.sent[before:]} == {MANY[1]}
            assert here.ready()
            assert here.board.probes.pairs == 1

    run(story)


@pytest.mark.parametrize("guarded", [False, True])
def test_what_arrived_is_taken_off_where_no_guard_counts_it(guarded: bool) -> None:
    async def story() -> None:
        async with scene(few()) as here:
            if guarded:
                seen = replace(here.board.overview.observed, guard=ObservedGuard(Table()))
                here.board.overview = replace(here.board.overview, observed=seen)
                here.board.probes.own.clear()
            before = here.board.probes.sent
            await here.clock.advance(21)
            here.prober.ill = {MANY[0]: Seen.LOST}
            await here.clock.advance(21)
            here.prober.ill = {}
            await here.clock.advance(2)  # what was under way is known
            arrived = here.board.probes.sent - here.board.probes.lost - before * guarded
            own = here.board.probes.own["dsr-ipip"]
            assert own == (Count() if guarded else Count(arrived, 56 * arrived))

    run(story)


def test_what_stumbles_does_not_fall(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with scene(few()) as here:

            async def broken(*_: object, **__: object) -> Sight:
                raise RuntimeError("a bug of ours")

            here.prober.fire = broken  # type: ignore[method-assign]
            await here.clock.advance(60)
            assert here.ready()
            here.prober.__dict__.pop("fire")
            await here.clock.advance(10)
            assert here.board.probes.sent > 2

    run(story)
    assert "a bug of ours" in caplog.text


def test_what_is_held_is_not_tried_and_comes_back_untried() -> None:
    """It may be away: that is no news, and what was said of it before is forgotten."""

    async def story() -> None:
        async with scene(few()) as here:
            here.prober.ill = {MANY[0]: Seen.LOST}
            await here.clock.advance(30)
            assert not here.ready()
            held = few().holding([ip_address(MANY[0])])
            here.board.add(report(wanted=held, saw=observed(MANY[1])))
            here.self_test.looked()
            await here.clock.advance(0.01)
            before = len(here.prober.sent)
            await here.clock.advance(30)
            assert {vip for _, vip in here.prober.sent[before:]} == {MANY[1]}
            assert here.board.probes.fallen == {}
            assert here.ready()
            here.prober.ill = {}
            here.board.add(report(wanted=few(), saw=observed(*MANY[:2])))
            here.self_test.looked()
            await here.clock.advance(30)
            assert {vip for _, vip in here.prober.sent[-4:]} == set(MANY[:2])

    run(story)


def test_an_address_that_comes_late_is_what_the_self_test_waited_for() -> None:
    """The tunnel's address, by which marked packets come: no link says that it is there now."""
    vip = Vip(ip_address(MANY[0]), "radius", tunnels=("dsr-dscp",), dscp=7)
    wanted = Desired(
        tunnels={"dsr-dscp": Tunnel("dsr-dscp", "dscp", LocalTowards(()))},
        vips={vip.key: vip},
        addresses={vip.key: address_of(vip)},
        silence_arp=False,
    )
    there = observed(MANY[0], links=())
    without = replace(there, addresses={key: each for key, each in there.addresses.items() if key.link == "lo"})

    async def story() -> None:
        async with scene(wanted, saw=without) as here:
            await here.clock.advance(20)
            assert here.prober.sent == []
            here.board.add(report(wanted=wanted, saw=there))
            here.self_test.looked()
            await here.clock.advance(20)
            assert {address for _, address in here.prober.sent} == {MANY[0]}

    run(story)
