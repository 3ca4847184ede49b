"""The guard through the door of the real host: announced, put back, held, refused in words, and nobody else's harm."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from functools import partial
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path

import pytest

from dsr_agent.guard.ruleset import ruleset
from dsr_agent.guard.transaction import commands, removal
from dsr_agent.kernel import firewall, libnftables
from dsr_agent.kernel.host import Host
from dsr_agent.kernel.trace import Requests, foreign_drops
from dsr_agent.state.errors import DsrError, NotPermitted, Unsupported
from dsr_agent.state.guard_actions import HoldGuard, RemoveGuard, WriteGuard
from dsr_agent.state.model import EVERYTHING, GUARD, HOST, Changes, Scope
from dsr_agent.state.report import Outcome, Result
from dsr_agent.state.table import FAMILY, ObservedGuard, Table
from tests.netns.filter import OURS, handle, need_tables, nft, somebody, table, text
from tests.netns.test_firewall import REQUEST

WANTED = ruleset(REQUEST)


@pytest.fixture(autouse=True)
def tables(space: None) -> None:
    """Where there are none, there is nothing to test."""
    need_tables()


async def look(host: Host, scope: Scope = EVERYTHING) -> ObservedGuard:
    """What there is of the guard."""
    return (await host.observe(scope)).guard


async def write(host: Host, wanted: Table = WANTED) -> Outcome:
    """Bring the table to *wanted*, and look at it once more: from here on there is a copy."""
    [outcome] = await host.apply([WriteGuard(wanted, commands(wanted, (await look(host)).table), "write it")])
    await look(host, HOST)
    return outcome


async def heard(host: Host) -> Changes:
    """The next changes of the guard."""
    while GUARD not in (changes := await asyncio.wait_for(host.changes(), 30)).keys:
        pass
    return changes


async def nothing_waits(host: Host) -> bool:
    """Whether there is nothing to be told, once all that was announced has been taken in."""
    await host.observe(HOST)
    waiting = asyncio.create_task(host.changes())
    for _ in range(5):
        await asyncio.sleep(0)
    told = waiting.done()
    waiting.cancel()
    return not told


# --- writing and removing ---------------------------------------------------------------------------------------------


async def test_the_guard_is_written_read_back_and_removed() -> None:
    """Removing what is not there any more is success."""
    async with Host() as host:
        assert await look(host) == ObservedGuard()

        assert (await write(host)).result is Result.DONE
        assert await look(host) == await look(host, HOST) == ObservedGuard(WANTED)

        [removed, again] = await host.apply([RemoveGuard(removal())] * 2)
        assert (removed.result, again.result) == (Result.DONE, Result.DONE)
        assert await look(host) == await look(host, HOST) == ObservedGuard()


async def test_it_stays_when_the_host_is_let_go_of() -> None:
    """Whoever comes next finds it, and that it is as it should be."""
    async with Host() as host:
        await write(host)

    assert table() == WANTED
    async with Host() as host:
        assert await look(host) == ObservedGuard(WANTED)


async def test_a_transaction_that_is_refused_changes_nothing() -> None:
    """Its outcome says so."""
    async with Host() as host:
        await write(host)
        before = text()
        broken = (
            *commands(Table(), WANTED),
            '{"add":{"element":{"family":"inet","table":"gone","name":"x","elem":[]}}}',
        )

        [outcome] = await host.apply([WriteGuard(Table(), broken, "break it")])

        assert outcome.result is Result.FAILED
        assert isinstance(outcome.error, DsrError)
        assert text() == before
        assert (await look(host, HOST)).table == WANTED


async def test_other_tables_are_left_as_they_are() -> None:
    """To the letter, counts and handles included; also one of our name in another family."""
    for family in ("inet", "ip", "ip6"):
        other = "other" if family == "inet" else "dsr_agent"
        nft(
            f"add table {family} {other}",
            f"add set {family} {other} vips4 {{ type ipv4_addr; flags interval; elements = {{ 192.0.2.0/24 }} }}",
            f"add counter {family} {other} source {{ packets 5 bytes 6 }}",
            f"add chain {family} {other} entrance {{ type filter hook prerouting priority -310; policy accept; }}",
            f"add rule {family} {other} entrance counter packets 7 bytes 8 accept",
        )
    others = ("inet other", "ip dsr_agent", "ip6 dsr_agent")
    before = [nft(f"list table {name}") for name in others]
    async with Host() as host:
        await write(host)
        await write(host, Table())
        await write(host)
        await host.apply([HoldGuard(commands(WANTED, None)), RemoveGuard(removal())])

    assert [nft(f"list table {name}") for name in others] == before
    assert "inet dsr_agent" not in nft("list tables")


# --- announcements ----------------------------------------------------------------------------------------------------

MEDDLING = {
    "everything flushed": "flush ruleset",
    "table deleted": f"delete table {OURS}",
    "element deleted": f"delete element {OURS} vips4 {{ 192.0.2.10 }}",
    "element added": f"add element {OURS} from-dsr-ipip {{ 198.51.100.1 }}",
    "rule added": f"insert rule {OURS} entrance accept",
    "chain emptied": f"flush chain {OURS} entrance",
    "set added": f"add set {OURS} theirs {{ type ipv4_addr; }}",
    "counter added": f"add counter {OURS} theirs",
}


@pytest.mark.parametrize("what", MEDDLING)
async def test_what_others_do_to_it_is_announced_seen_and_put_back(what: str) -> None:
    """A look that reads nothing afresh sees it, because the copy is thrown away."""
    async with Host() as host:
        await write(host)
        nft(MEDDLING[what])

        await heard(host)

        assert (await look(host, HOST)).table != WANTED
        assert (await write(host)).result is Result.DONE
        assert (await look(host, HOST)).table == WANTED
        assert await nothing_waits(host), "own writes are not announced"


@pytest.mark.parametrize("what", MEDDLING)
async def test_a_look_sees_what_nobody_had_the_time_to_announce(what: str) -> None:
    """What waits in the socket is taken in first."""
    async with Host() as host:
        await write(host)
        nft(MEDDLING[what])

        assert (await look(host, HOST)).table != WANTED


async def test_what_is_done_to_other_tables_is_not_announced() -> None:
    """A host may have a firewall that changes by the minute."""
    async with Host() as host:
        await write(host)
        nft(f"add table {FAMILY} other", f"add set {FAMILY} other vips4 {{ type ipv4_addr; }}")
        nft("add table ip dsr_agent", "add set ip dsr_agent vips4 { type ipv4_addr; }", "delete table ip dsr_agent")

        assert await nothing_waits(host)


async def test_rules_of_others_have_changed_when_others_have_changed_them() -> None:
    """Not when packets are followed, which takes a table of ours, made by a thread."""
    async with Host() as host:
        await write(host)
        host.rules_changed.clear()
        await asyncio.to_thread(foreign_drops, 0.0)
        nft(MEDDLING["element deleted"])
        await heard(host)
        assert not host.rules_changed.is_set()

        nft(f"add table {FAMILY} other")
        nft(MEDDLING["element added"])
        await heard(host)
        assert host.rules_changed.is_set()


async def test_what_was_followed_is_told_though_the_time_is_over() -> None:
    """This process was kept from looking until then: a busy host does that, for seconds."""
    nft(f"add table {FAMILY} other", f"add chain {FAMILY} other in {{ type filter hook input priority 0; }}")
    nft(f"add rule {FAMILY} other in udp dport 9 drop")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        of_vip = Requests(plain=(IPv4Address("127.0.0.1"),))
        send = partial(asking.sendto, b"", ("127.0.0.1", 9))
        _, drops = await asyncio.to_thread(foreign_drops, 0.0, of_vip, early=True, started=send)
    assert [drop.table for drop in drops] == ["other"]


async def test_who_changed_it_is_told() -> None:
    """By the number of the process."""
    async with Host() as host:
        await write(host)
        with somebody(f"delete element {OURS} vips4 {{ 192.0.2.10 }}") as process:
            assert (await heard(host)).by == {GUARD: process.pid}


async def test_who_changed_it_is_named_while_it_lives() -> None:
    """As it is for addresses."""
    async with Host() as host:
        await write(host)
        with somebody(f"delete element {OURS} vips4 {{ 192.0.2.10 }}") as process:
            told = await host.who((await heard(host)).by[GUARD])

    assert told.endswith(f"(process {process.pid})")


async def test_a_process_that_writes_at_the_same_time_is_not_taken_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after our own transaction, before anything was heard of it; and what it does later is heard."""
    carry_out, numbers = libnftables.Nftables.transaction, count()
    async with Host() as host:
        with somebody("list tables") as other:

            def together(self: libnftables.Nftables, steps: Iterable[str]) -> str:
                complaint = carry_out(self, steps)
                other.does(f"add table {FAMILY} other{next(numbers)}")
                return complaint

            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(libnftables.Nftables, "transaction", together)
                await write(host)
            other.does(MEDDLING["element deleted"])

            assert (await look(host, HOST)).table != WANTED


async def test_announcements_that_are_lost_are_followed_by_a_fresh_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when what was lost is the only one that was about us; and the next one is heard again."""
    monkeypatch.setattr(firewall, "_RECEIVE_BUFFER", 4096)
    async with Host() as host:
        await write(host)
        assert (await look(host, HOST)).table == WANTED
        flood = [f"add set {FAMILY} other s{number} {{ type ipv4_addr; }}" for number in range(300)]
        nft(f"add table {FAMILY} other", *flood)
        nft(MEDDLING["element deleted"])

        await heard(host)

        assert (await look(host, HOST)).table != WANTED
        await write(host)
        await nothing_waits(host)  # what was lost of our own writing
        nft(MEDDLING["element added"])
        await heard(host)
        assert (await look(host, HOST)).table != WANTED


# --- holding ----------------------------------------------------------------------------------------------------------


async def hold(host: Host) -> ObservedGuard:
    """Write the guard and hold it, if it can be; what is seen then."""
    await write(host)
    if (await look(host)).can_hold:
        [outcome] = await host.apply([HoldGuard(commands(WANTED, None))])
        assert outcome.result is Result.DONE
    return await look(host)


async def test_holding_is_tried_once_and_never_again() -> None:
    """Where it cannot be had: nobody is told that it could, and the table is as it should be."""
    async with Host(hold=True) as host:
        found = await hold(host)

        assert found.table == WANTED
        assert not found.can_hold, "it is held now, or it cannot be"
        if found.held:
            pytest.skip("this kernel and its nftables can hold a table")
        nft("flush ruleset")
        await write(host)
        assert await look(host) == ObservedGuard(WANTED), "nor after it was written anew"


async def test_who_comes_after_takes_the_table_as_it_is() -> None:
    """``apply``, or an agent that starts again: what was counted is in the table."""
    async with Host(hold=True) as host:
        await hold(host)
    first = handle()
    async with Host(hold=True) as host:
        before = await look(host)
        await hold(host)
        after = await look(host)

    assert handle() == first
    assert after.held or not before.can_hold, "what cannot be is not tried"


async def test_who_is_not_to_hold_it_is_not_told_that_it_can() -> None:
    """``dsr-agent status`` beside a running agent."""
    async with Host() as host:
        await write(host)

        assert not (await look(host)).can_hold


async def test_holding_is_no_news() -> None:
    """It is our own doing, and nobody has to look again."""
    async with Host(hold=True) as host:
        await hold(host)

        assert await nothing_waits(host)


async def test_a_table_that_another_process_owns_is_told_with_the_remedy() -> None:
    """And is ours to write again as soon as that process has gone."""
    async with Host() as host:
        with somebody(f"add table {OURS} {{ flags owner; }}"):
            outcome = await write(host)

            assert type(outcome.error) is NotPermitted
            assert "another process owns the table inet dsr_agent" in str(outcome.error)

        assert (await write(host)).result is Result.DONE
        assert await look(host) == ObservedGuard(WANTED)


# --- where it cannot be had -------------------------------------------------------------------------------------------


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host without nftables."""
    monkeypatch.setattr(libnftables, "_LIBRARY", "libnftables-that-is-not-there.so.1")
    libnftables._library.cache_clear()
    yield
    libnftables._library.cache_clear()


async def test_a_host_without_nftables_says_so(no_library: None) -> None:
    """Looking, writing and removing: with what to install, or what to write instead."""
    async with Host(hold=True) as host:
        found = await look(host)
        outcomes = await host.apply([WriteGuard(WANTED, (), "write it"), RemoveGuard(removal())])

    assert (found.table, found.held, found.can_hold) == (None, False, False)
    for error in (found.unavailable, *(outcome.error for outcome in outcomes)):
        assert type(error) is Unsupported
        assert "nftables is not installed" in error.problem
        assert "libnftables1" in error.remedy
        assert "required = false" in error.remedy


async def test_a_library_that_comes_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody installs it while the agent runs."""
    there = libnftables._LIBRARY
    async with Host() as host:
        with monkeypatch.context() as without:
            without.setattr(libnftables, "_LIBRARY", str(Path("/nowhere", there)))
            libnftables._library.cache_clear()
            assert (await look(host)).unavailable

        assert (await write(host)).result is Result.DONE
        assert await look(host) == ObservedGuard(WANTED)
