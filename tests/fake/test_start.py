"""The first pass: from whatever is there to what the file says."""

from __future__ import annotations

from tests.fake.story import HOST, IN_SYNC, Story


async def test_a_bare_host_becomes_a_real_server() -> None:
    """Module, tunnel, its address and sysctls, both VIPs and ARP silence, in one pass."""
    async with Story() as story:
        assert story.host == IN_SYNC
        assert story.log() == ["INFO started: 1 tunnel, 2 VIPs; 14 steps, in sync after 0.0 ms"]
        assert story.reports[0].in_sync
        assert [look.everything for look in story.kernel.looks[:2]] == [True, False], "the proof needs no second dump"


async def test_a_restart_finds_nothing_to_do() -> None:
    """A freshly started agent recognises all that another one left behind."""
    async with Story(host=IN_SYNC) as story:
        assert story.host == IN_SYNC
        assert story.log() == ["INFO started: 1 tunnel, 2 VIPs; nothing to do, in sync after 0.0 ms"]
        assert len(story.reports) == 1


async def test_stopping_leaves_everything() -> None:
    """Only teardown takes the data plane away."""
    story = Story(host=HOST)
    async with story:
        pass

    assert story.host == IN_SYNC
