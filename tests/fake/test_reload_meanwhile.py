"""A file that comes while something else is going on is neither mixed into that nor kept waiting by it."""

from __future__ import annotations

from itertools import pairwise

from dsr_agent.reconcile.loop import Rhythm
from dsr_agent.state.actions import AddAddress
from dsr_agent.state.report import PassCause
from tests.fake.story import FILE, Story, desired

OTHER = FILE.replace("192.0.2.10", "192.0.2.99")


async def test_drift_and_a_new_file_at_once_are_one_pass_over_everything() -> None:
    async with Story() as story:
        story.passes()
        story.kernel.meddle("ip addr del 2001:db8::10/128 dev lo")
        await story.reload(OTHER)

        first = story.passes()[0]

        assert first.cause is PassCause.RELOAD
        assert first.desired == desired(OTHER)
        assert "192.0.2.99/32 ours" in str(story.kernel)
        assert "2001:db8::10/128 ours" in str(story.kernel)


async def test_a_pass_ends_by_the_file_that_it_began_with() -> None:
    async with Story() as story:
        story.passes()
        story.kernel.before_next(AddAddress, lambda: story.reload_now(OTHER))
        with story.kernel.losing_announcements():  # so that the pass is over everything
            story.kernel.meddle("ip addr del 192.0.2.10/32 dev lo")
        await story.moment()

        repair, reload = story.passes()[:2]

        assert [str(outcome.action) for outcome in repair.outcomes] == ["add 192.0.2.10/32 on lo"]
        assert (repair.cause, repair.desired, repair.in_sync) == (PassCause.DRIFT, desired(FILE), True)
        assert (reload.cause, reload.desired, reload.in_sync) == (PassCause.RELOAD, desired(OTHER), True)


async def test_the_loop_turns_though_nothing_happens() -> None:
    turns: list[float] = []
    async with Story(rhythm=Rhythm(poll=60, resync=60)) as story:
        story.reconciler._turned = lambda: turns.append(story.clock.now())
        await story.seconds(120)
    gaps = [later - earlier for earlier, later in pairwise(turns)]
    assert max(gaps) <= 10.001
