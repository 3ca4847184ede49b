"""The guard in the agent's life: there before a tunnel is up, put back at once, and gone after the last tunnel."""

from __future__ import annotations

from dsr_agent.reconcile.loop import carry_out
from dsr_agent.reconcile.plan import teardown
from dsr_agent.state.actions import Action, AddLink, BringUp, DeleteLink
from dsr_agent.state.errors import DsrError, NotPermitted, Transient, Unsupported
from dsr_agent.state.guard_actions import RemoveGuard, WriteGuard
from dsr_agent.state.model import EVERYTHING, GUARD
from dsr_agent.state.report import Report, Result
from dsr_agent.state.table import Table
from tests.fake.story import FILE, HOST, IN_SYNC, Story
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import IPIP, gre, inner, outer

GUARDED = "[guard]\nrequired = true\n" + FILE
RELAXED = "[guard]\nrequired = false\n" + FILE
WITHOUT = "[guard]\nenabled = false\n" + FILE
NO_TUNNELS = GUARDED[: GUARDED.index("[[tunnel]]")] + FILE[FILE.index("[[vip]]") :]

UP, DOWN = "dsr-ipip sit local 10.0.3.2 up ours", "dsr-ipip sit local 10.0.3.2 down ours"
MISSING = Unsupported("there is no guard, because nftables is not installed", "install nftables")
TOLD = "guard: there is no guard, because nftables is not installed: install nftables"
BACK = "WARNING guard: it is missing; put back in 0.0 ms"


def guard(story: Story) -> Table:
    """The table that is in force."""
    assert story.kernel.machine.guard is not None
    return story.kernel.machine.guard


def lets_in(table: Table | None, protocol: int, source: str = "10.1.0.5") -> bool:
    """Whether *source* gets in by the tunnel's address."""
    return table is None or judge(table, outer(source, "10.0.3.2", protocol, gre())).accepted


def done(report: Report) -> list[Action]:
    """The steps that were done."""
    return [outcome.action for outcome in report.outcomes if outcome.result is Result.DONE]


def place(steps: list[Action], kind: type[Action]) -> int:
    """Where the only step of this *kind* is."""
    [found] = [number for number, step in enumerate(steps) if isinstance(step, kind)]
    return found


# --- in time ----------------------------------------------------------------------------------------------------------


async def test_the_guard_is_there_before_anything_can_come_out_of_a_tunnel() -> None:
    """Written whole before the first link is made; nobody but the balancer gets in, and nobody but to a VIP."""
    async with Story(GUARDED) as story:
        steps = done(story.reports[0])
        [first, *_] = [number for number, step in enumerate(steps) if isinstance(step, WriteGuard)]
        assert first < place(steps, AddLink) < place(steps, BringUp)
        for number in (first, len(steps)):
            table = [step.table for step in steps[: number + 1] if isinstance(step, WriteGuard)][-1]
            assert (lets_in(table, IPIP), lets_in(table, IPIP, "198.51.100.1")) == (True, False)
            assert judge(table, inner("198.51.100.1", "192.0.2.10")).accepted
            assert judge(table, inner("2001:db8:9::9", "2001:db8::10")).accepted
            assert not judge(table, inner("198.51.100.1", "192.0.2.11")).accepted
        assert story.reports[0].in_sync
        assert story.host == IN_SYNC


async def test_a_guard_that_can_be_held_is_held() -> None:
    """And once more when it had to be written again."""
    story = Story(GUARDED)
    story.kernel.machine.holds_guard = True
    async with story:
        assert story.kernel.machine.guard_held
        story.log()

        await story.hears("nft flush ruleset")

        assert story.kernel.machine.guard_held
        assert story.log() == [BACK]


async def test_a_restart_finds_the_guard_as_it_should_be() -> None:
    """And writes nothing."""
    async with Story(GUARDED) as story:
        table = guard(story)
    again = Story(GUARDED, IN_SYNC)
    again.kernel.machine.guard = table
    again.kernel.machine.holds_guard = True  # taking hold of it changes nothing
    async with again:
        assert again.log() == ["INFO started: 1 tunnel, 2 VIPs; nothing to do, in sync after 0.0 ms"]
        assert again.kernel.machine.guard_held


async def test_stopping_leaves_the_guard() -> None:
    """As it leaves the tunnels."""
    async with (story := Story(GUARDED)):
        pass

    assert lets_in(guard(story), IPIP)


async def test_a_guard_that_is_gone_is_put_back_at_once_and_told_once() -> None:
    """With who it was."""
    async with Story(GUARDED) as story:
        before = guard(story)
        story.kernel.processes[4242] = "nft (process 4242)"
        story.log()

        await story.hears("nft flush ruleset", by=4242)

        assert guard(story) == before
        assert story.log() == [f"{BACK} (undone by nft (process 4242))"]
        await story.seconds(600)
        assert story.log() == []


async def test_a_guard_that_is_gone_without_a_word_is_put_back_by_the_next_look() -> None:
    """Level-triggered, as all else."""
    async with Story(GUARDED) as story:
        with story.kernel.silently():
            story.kernel.meddle("nft flush ruleset")
        await story.seconds(6)

        assert lets_in(guard(story), IPIP)
        assert not lets_in(guard(story), IPIP, "198.51.100.1")


async def test_a_fight_about_the_guard_is_told_and_fought_to_the_end() -> None:
    """While it was held back, strangers would get in."""
    async with Story(GUARDED) as story:
        story.log()
        told = []
        for _ in range(20):
            await story.hears("nft flush ruleset")
            assert story.kernel.machine.guard is not None, "put back at once, every time"
            told += story.log()

        assert told[:9] == [BACK] * 9
        assert [line for line in told[9:] if line != BACK] == [
            line for line in told if line.startswith("ERROR guard: somebody keeps undoing it, 10 times within a minute")
        ]
        assert len(told) == 11
        await story.seconds(120)
        assert story.log() == ["INFO guard: left in peace again"]


async def test_what_is_told_of_a_fight_about_the_guard_is_true() -> None:
    """It is repaired as often as it is undone."""
    async with Story(GUARDED) as story:
        for _ in range(10):
            await story.hears("nft flush ruleset")

        assert not [line for line in story.log() if "less often" in line]


# --- not to be had ----------------------------------------------------------------------------------------------------


def without_guard(file: str, host: str = HOST, error: DsrError = MISSING) -> Story:
    """The agent on a host that has no packet filter."""
    story = Story(file, host)
    story.kernel.machine.guard_unavailable = error
    return story


async def test_without_the_required_guard_no_tunnel_is_brought_up() -> None:
    """It is made and waits; the log says why, once; and it comes up by itself when the guard can be had."""
    story = without_guard(GUARDED)
    story.kernel.fail_always(WriteGuard, MISSING)
    async with story:
        assert DOWN in story.host
        assert "192.0.2.10/32 ours" in story.host, "VIPs do not wait for it"
        [skipped] = [outcome for outcome in story.reports[0].outcomes if outcome.result is Result.SKIPPED]
        assert (str(skipped.action), str(skipped.error)) == ("bring dsr-ipip up", "it waits for guard")
        assert story.log() == [
            "INFO started: 1 tunnel, 2 VIPs; 13 steps, not in sync after 0.0 ms",
            f"ERROR {TOLD}",
        ]
        await story.seconds(300)
        assert DOWN in story.host
        assert story.log() == []

        story.kernel.machine.guard_unavailable = None
        story.kernel.heal()
        await story.seconds(31)

        assert UP in story.host
        assert lets_in(guard(story), IPIP)
        assert [line.partition(" ")[2] for line in story.log()] == [
            "guard: it is missing; put back in 0.0 ms",
            "tunnel dsr-ipip: it is down; brought up in 0.0 ms",
            "in sync again",
        ]


async def test_tunnels_that_are_up_stay_up_without_the_guard() -> None:
    """Traffic first: what was there before is not taken away."""
    story = without_guard(GUARDED, IN_SYNC)
    story.kernel.fail_always(WriteGuard, MISSING)
    async with story:
        await story.seconds(300)

        assert UP in story.host
        assert f"ERROR {TOLD}" in story.log()


async def test_a_tunnel_made_again_waits_for_the_guard_as_well() -> None:
    """The guard cannot be written for a moment, and the tunnel is deleted meanwhile."""
    async with Story(GUARDED) as story:
        story.kernel.fail_always(WriteGuard, Transient("the guard cannot be changed: busy"))
        await story.hears("nft flush ruleset", "ip link del dsr-ipip")
        assert DOWN in story.host

        story.kernel.heal()
        await story.seconds(31)

        assert UP in story.host


async def test_a_guard_that_is_not_required_is_done_without_and_told_once() -> None:
    """The tunnel is up, and a warning says that everybody gets in."""
    async with without_guard(RELAXED) as story:
        assert UP in story.host
        assert story.reports[0].in_sync
        assert story.log() == ["INFO started: 1 tunnel, 2 VIPs; 14 steps, in sync after 0.0 ms", f"WARNING {TOLD}"]
        await story.seconds(300)
        assert story.log() == []

        story.kernel.machine.guard_unavailable = None
        await story.seconds(6)

        assert lets_in(guard(story), IPIP)
        assert story.log() == [BACK]


async def test_a_guard_that_is_not_required_and_cannot_be_written_is_no_reason_to_wait() -> None:
    """It is there to be seen, and the kernel refuses it."""
    story = Story(RELAXED)
    story.kernel.fail_always(WriteGuard, Unsupported("this kernel has no nftables"))
    async with story:
        assert UP in story.host
        assert "ERROR guard: this kernel has no nftables" in story.log()


async def test_a_guard_that_may_not_be_seen_is_no_reason_to_go_on_without() -> None:
    """A sandbox that allows routing sockets and not those of the packet filter."""
    error = NotPermitted("the guard cannot be seen or changed", "run with CAP_NET_ADMIN")
    story = without_guard(GUARDED, error=error)
    story.kernel.machine.holds_guard = True
    story.kernel.fail_always(WriteGuard, error)
    async with story:
        assert DOWN in story.host
        assert f"ERROR guard: {error}" in story.log()


# --- not wanted -------------------------------------------------------------------------------------------------------


async def test_a_file_that_wants_no_guard_has_it_removed() -> None:
    """The tunnel stays as it is; and back again."""
    async with Story(GUARDED) as story:
        await story.reload(WITHOUT)
        assert story.kernel.machine.guard is None
        assert [str(action) for action in done(story.reports[-1])] == ["remove the guard"]

        await story.reload(GUARDED)
        assert lets_in(guard(story), IPIP)
        assert UP in story.host


async def test_without_tunnels_there_is_no_table() -> None:
    """A host with VIPs only has nothing that could be entered."""
    async with Story(NO_TUNNELS) as story:
        await story.seconds(100)

        assert story.kernel.machine.guard is None
        assert not any(isinstance(action, WriteGuard) for report in story.reports for action in done(report))


async def test_the_guard_goes_after_the_last_tunnel() -> None:
    """What still comes out of it meanwhile is guarded."""
    async with Story(GUARDED) as story:
        await story.reload(NO_TUNNELS)

        steps = done(story.reports[-1])
        assert place(steps, DeleteLink) < place(steps, RemoveGuard)


async def test_a_guard_whose_last_tunnel_does_not_go_stays_until_it_does() -> None:
    """Taking the link away fails for a while."""
    async with Story(GUARDED) as story:
        story.kernel.fail_always(DeleteLink, Transient("the link is busy"))
        await story.reload(NO_TUNNELS)
        assert "dsr-ipip" in story.host
        assert story.kernel.machine.guard is not None
        story.kernel.heal()
        await story.seconds(31)

        assert "dsr-ipip" not in story.host
        assert story.kernel.machine.guard is None


async def test_teardown_removes_the_guard_after_the_links() -> None:
    """And a link that does not go keeps it."""
    story = Story(GUARDED)
    async with story:
        pass
    kernel = story.kernel
    kernel.fail_next(DeleteLink, Transient("the link is busy"))

    outcomes = await carry_out(kernel, teardown(await kernel.observe(EVERYTHING)).actions)

    assert [outcome.result for outcome in outcomes if outcome.action.key == GUARD] == [Result.SKIPPED]
    assert lets_in(kernel.machine.guard, IPIP)
    outcomes = await carry_out(kernel, teardown(await kernel.observe(EVERYTHING)).actions)
    steps = [outcome.action for outcome in outcomes]
    assert place(steps, DeleteLink) < place(steps, RemoveGuard)
    assert kernel.machine.guard is None
