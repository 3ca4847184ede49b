"""VIPs that others on the segment have, too: none is here while this host would answer for it."""

from __future__ import annotations

from dsr_agent.state.actions import AddAddress, WriteSysctl
from dsr_agent.state.errors import NotPermitted
from dsr_agent.state.report import Result
from tests.fake.story import Story, sorted_lines

FILE = """
[[tunnel]]
encapsulation = "l2"

[[vip]]
address = "192.0.2.10"

[[vip]]
address = "2001:db8::10"
"""
HOST = """
lo up
eth0 arp up
  10.0.3.2/24
"""
SILENT = """\
lo up
  192.0.2.10/32 ours
  2001:db8::10/128 ours
eth0 arp up
  10.0.3.2/24
all
  arp_ignore=1 arp_announce=2"""


async def test_silence_comes_first() -> None:
    async with Story(FILE, HOST) as story:
        done = [outcome.action for outcome in story.reports[0].outcomes]
        assert [type(action) for action in done] == [WriteSysctl] * 2 + [AddAddress] * 2
        assert sorted_lines(story.host) == sorted_lines(SILENT)


async def test_a_host_that_cannot_be_made_silent_gets_no_vip() -> None:
    """IPv6 is never answered for, so it does not wait; the other comes as soon as it may."""
    story = Story(FILE, HOST)
    story.kernel.fail_always(WriteSysctl, NotPermitted("the kernel says no", "make /proc/sys writable"))
    async with story:
        await story.seconds(60)
        waiting = [outcome for outcome in story.reports[0].outcomes if outcome.result is Result.SKIPPED]
        assert [str(outcome.action) for outcome in waiting] == ["add 192.0.2.10/32 on lo"]
        assert "it waits for net/ipv4/conf/all/arp_ignore" in str(waiting[0].error)
        assert "192.0.2.10" not in story.host
        assert "2001:db8::10" in story.host

        story.kernel.heal()
        await story.seconds(60)
        assert sorted_lines(story.host) == sorted_lines(SILENT)


async def test_a_vip_that_goes_while_somebody_lowers_the_sysctls_waits_for_silence() -> None:
    """Nothing announces the sysctls; the pass that puts the VIP back looks at them all the same."""
    async with Story(FILE, HOST) as story:
        before = len(story.reports)
        await story.hears("sysctl net/ipv4/conf/all/arp_ignore=0", "ip addr del 192.0.2.10/32 dev lo")
        steps = [str(outcome.action) for report in story.reports[before:] for outcome in report.outcomes]
        assert steps == ["set net/ipv4/conf/all/arp_ignore = 1", "add 192.0.2.10/32 on lo"]
        assert sorted_lines(story.host) == sorted_lines(SILENT)


async def test_a_vip_that_its_card_answers_for_is_not_put_there_by_an_announcement_either() -> None:
    """Somebody adds it and takes it away again: what is refused at every full look is refused then, too."""
    file = '[[vip]]\naddress = "10.0.3.100"\ndevice = "eth0"\n'
    async with Story(file, HOST) as story:
        assert "10.0.3.100" not in story.host
        await story.hears("ip addr add 10.0.3.100/32 dev eth0")
        await story.hears("ip addr del 10.0.3.100/32 dev eth0")
        assert "10.0.3.100" not in story.host
