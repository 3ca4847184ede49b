"""A VIP that somebody holds is left as it is, there or not, until it is released; everything else goes on."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.reconcile.loop import Rhythm, apply_once, plan_now
from dsr_agent.state.actions import AddAddress
from dsr_agent.state.model import AddressKey, Desired, Ip, Scope
from dsr_agent.state.report import PassCause
from tests.fake.clock import FakeClock
from tests.fake.kernel import FakeKernel
from tests.fake.machine import Machine
from tests.fake.story import FILE, HOST, IN_SYNC, Story, desired, sorted_lines
from tests.fake.worlds import VIPS, files, hosts

ONE, SIX = ip_address("192.0.2.10"), ip_address("2001:db8::10")
DELETED, SIX_DELETED = "ip addr del 192.0.2.10/32 dev lo", "ip addr del 2001:db8::10/128 dev lo"
WITHOUT = IN_SYNC.replace("  192.0.2.10/32 ours\n", "")


async def held(story: Story, *ips: Ip) -> None:
    """Somebody holds these and no others, and a moment passes."""
    story.reconciler.hold(frozenset(ips))
    await story.moment()


async def test_what_is_held_is_not_put_back_and_the_rest_is() -> None:
    async with Story() as story:
        await held(story, ONE)
        await story.hears(DELETED, SIX_DELETED)
        await story.seconds(200)  # polls and resyncs
        assert sorted_lines(story.host) == sorted_lines(WITHOUT)
        assert all(report.in_sync for report in story.passes())
        assert [line for line in story.log() if "192.0.2.10" in line] == []


async def test_a_release_puts_it_back_at_once_by_one_request() -> None:
    async with Story() as story:
        await held(story, ONE)
        await story.hears(DELETED)
        story.passes(), story.log()
        await held(story)
        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        (report,) = story.passes()
        assert (report.cause, report.scope) == (PassCause.HOLD, Scope(host=True, addresses=frozenset({_key(ONE)})))
        assert [str(outcome.action) for outcome in report.outcomes] == ["add 192.0.2.10/32 on lo"]
        (line,) = story.log()
        assert line.startswith("INFO VIP 192.0.2.10/32 on lo: it is missing; put back in ")


async def test_a_hold_survives_a_reload() -> None:
    async with Story() as story:
        await held(story, ONE)
        await story.hears(DELETED)
        await story.reload(FILE + '[[vip]]\naddress = "192.0.2.99"\n')
        assert "192.0.2.99/32 ours" in story.host
        assert "192.0.2.10/32" not in story.host


async def test_a_held_vip_that_leaves_the_file_is_removed_and_one_that_comes_is_held() -> None:
    async with Story() as story:
        await held(story, ONE)
        other = FILE.replace("192.0.2.10", "192.0.2.99")
        await story.reload(other)
        assert "192.0.2.10/32" not in story.host
        await story.reload(FILE)
        assert "192.0.2.10/32" not in story.host, "it is held, and was not there"
        await held(story)
        assert "192.0.2.10/32 ours" in story.host


async def test_a_held_vip_that_moves_to_another_device_in_the_file_stays_where_it_is() -> None:
    async with Story(host=HOST.replace("eth0", "dummy0 up\neth0")) as story:
        await held(story, ONE)
        moved = FILE.replace('address = "192.0.2.10"', 'address = "192.0.2.10"\ndevice = "dummy0"')
        await story.reload(moved)
        assert "lo up\n  192.0.2.10/32 ours" in story.host
        await held(story)
        await story.seconds(70)
        assert "dummy0 up\n  192.0.2.10/32 ours" in story.host
        assert "lo up\n  192.0.2.10/32" not in story.host


async def test_what_is_held_from_the_start_is_never_put_there() -> None:
    """As after a restart: the first pass already goes by it."""
    story = Story()
    story.reconciler.hold(frozenset({ONE}))
    async with story:
        assert "192.0.2.10/32" not in story.host
        assert PassCause.HOLD not in [report.cause for report in story.passes()]


async def test_what_somebody_fights_over_is_put_back_at_once_when_it_is_released() -> None:
    async with Story(rhythm=Rhythm(poll=60, resync=60)) as story:
        for _ in range(11):
            await story.hears(DELETED)
        assert "192.0.2.10/32" not in story.host, "it is fought over"
        await held(story, ONE)
        await held(story)
        assert "192.0.2.10/32 ours" in story.host


async def test_what_cannot_be_had_is_no_trouble_while_it_is_held() -> None:
    """Its device is not there, say: nobody needs it meanwhile."""
    async with Story(FILE.replace('address = "192.0.2.10"', 'address = "192.0.2.10"\ndevice = "dummy0"')) as story:
        assert not story.passes()[-1].in_sync
        await held(story, ONE)
        assert story.passes()[-1].in_sync
        await held(story)
        assert not story.passes()[-1].in_sync


@pytest.mark.parametrize("change", ["put 192.0.2.10/32 on eth0", "ip addr replace 192.0.2.10/32 dev lo"])
async def test_what_somebody_makes_of_it_meanwhile_stays(change: str) -> None:
    change = change.replace("put 192.0.2.10/32 on eth0", "ip addr add 192.0.2.10/32 dev eth0")
    async with Story() as story:
        await held(story, ONE)
        await story.hears(DELETED) if "add" in change else None
        await story.hears(change)
        before = story.host
        await story.seconds(70)
        assert story.host == before
        assert story.passes()[-1].in_sync


async def test_a_hold_while_it_is_being_repaired_is_for_the_next_pass_which_comes() -> None:
    """Who asks is answered when a pass has gone by it: not by one that began before."""
    async with Story(rhythm=Rhythm(poll=60, resync=60)) as story:
        story.passes()
        story.kernel.before_next(AddAddress, lambda: story.reconciler.hold(frozenset({ONE})))
        await story.hears(DELETED)
        assert [(report.cause, report.desired.held) for report in story.passes()] == [
            (PassCause.DRIFT, frozenset()),
            (PassCause.HOLD, frozenset({ONE})),
        ]


async def test_apply_and_plan_leave_alone_what_they_are_told_is_held() -> None:
    kernel = FakeKernel(WITHOUT)
    wanted = desired(FILE).holding([ONE])
    assert not (await plan_now(kernel, wanted))[0]
    assert (await apply_once(kernel, wanted, FakeClock())).outcomes == ()
    assert (await plan_now(kernel, desired(FILE)))[0].actions


def test_only_what_the_file_has_is_held() -> None:
    assert desired(FILE).holding([ONE, ip_address("192.0.2.99")]).held == {ONE}
    assert desired(FILE).holding([]) is desired(FILE)


@given(files(), hosts(), st.sets(st.sampled_from(VIPS)))
def test_no_step_and_no_problem_is_about_what_is_held(file: Desired, host: Machine, ips: set[Ip]) -> None:
    """Whatever the file, the host and what is on it."""
    wanted = file.holding(ips)
    todo, _ = asyncio.run(plan_now(FakeKernel(host), wanted))
    keys = [item.key for item in (*todo.actions, *todo.problems)]
    about = [key.ip for key in keys if isinstance(key, AddressKey)]
    assert not wanted.held & set(about)


def _key(ip: Ip) -> AddressKey:
    return desired(FILE).key_of_ip[ip]
