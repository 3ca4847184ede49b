"""When the agent looks: bursts, lost announcements, what is never announced, fights, retries, and stopping."""

from __future__ import annotations

import pytest

from dsr_agent.reconcile.cadence import FIGHT_REPAIRS, LONGEST_PAUSE
from dsr_agent.reconcile.loop import Rhythm
from dsr_agent.state.actions import AddAddress, AddLink
from dsr_agent.state.errors import Transient
from dsr_agent.state.model import EVERYTHING, HOST
from dsr_agent.state.report import PassCause, Result
from tests.fake.story import FILE, IN_SYNC, Story, sorted_lines
from tests.fake.story import HOST as BARE

DELETE = "ip addr del 192.0.2.10/32 dev lo"
VIP = "192.0.2.10/32 on lo"


# --- announcements ----------------------------------------------------------------------------------------------


async def test_a_burst_becomes_one_pass() -> None:
    """Forty announcements a millisecond apart are one reason to look."""
    async with Story() as story:
        story.passes()
        for number in range(20):
            story.kernel.meddle(f"ip addr add 198.51.100.{number}/32 dev eth0")
            await story.seconds(0.001)
            story.kernel.meddle(f"ip addr del 198.51.100.{number}/32 dev eth0")
            await story.seconds(0.001)
        await story.moment()

        assert len(story.passes()) == 1


async def test_who_did_it_is_not_forgotten_while_more_is_collected() -> None:
    """The culprit is named although something else was announced a moment later."""
    async with Story() as story:
        story.log()
        story.kernel.processes[77] = "chef (process 77)"
        story.kernel.meddle(DELETE, by=77)
        await story.seconds(0.001)
        story.kernel.meddle("sysctl -w net/ipv4/conf/all/rp_filter=1")
        await story.moment()

        assert story.log() == [f"WARNING VIP {VIP}: it is missing; put back in 0.0 ms (undone by chef (process 77))"]


async def test_a_storm_does_not_keep_a_vip_waiting() -> None:
    """However long announcements go on, a deleted VIP is back within 50 ms."""
    async with Story() as story:
        story.kernel.meddle(DELETE)
        for number in range(30):
            story.kernel.meddle(f"sysctl -w net/ipv4/conf/dsr-ipip/forwarding={number % 2}")
            await story.seconds(0.002)

        assert "192.0.2.10/32 ours" in story.host


async def test_lost_announcements_lead_to_a_full_read_back() -> None:
    """What happened meanwhile is unknown: everything is read afresh, put right, and it is said."""
    async with Story() as story:
        story.log()
        story.passes()
        with story.kernel.losing_announcements():
            story.kernel.meddle("ip addr flush dev lo", "ip link set dsr-ipip down")

        await story.moment()

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        [first, *_] = story.passes()
        assert (first.scope, first.lost, first.in_sync) == (EVERYTHING, True, True)
        assert story.log() == [
            "WARNING announcements of the kernel were lost; everything was read back",
            "WARNING VIP 192.0.2.10/32 on lo: it is missing; put back in 0.0 ms",
            "WARNING VIP 2001:db8::10/128 on lo: it is missing; put back in 0.0 ms",
            "WARNING tunnel dsr-ipip: it is down; brought up in 0.0 ms",
        ]


async def test_lost_announcements_while_a_burst_is_collected_are_not_forgotten() -> None:
    """Losing some in the middle of a burst is losing some."""
    async with Story() as story:
        story.passes()
        story.kernel.meddle("sysctl -w net/ipv4/conf/dsr-ipip/forwarding=1")
        await story.seconds(0.001)
        with story.kernel.losing_announcements():
            story.kernel.meddle(DELETE)
        await story.moment()

        assert story.passes()[0].lost
        assert "192.0.2.10/32 ours" in story.host


async def test_routes_alone_are_given_a_moment() -> None:
    """A routing daemon announces by the thousand: a quarter of a second of it is one look."""
    async with Story() as story:
        story.passes()
        for number in range(100):
            story.kernel.reach("10.1.0.5", f"10.0.3.{number + 100}")
            await story.seconds(0.002)
        assert story.passes() == []

        await story.seconds(0.2)

        assert "dsr-ipip sit local 10.0.3.199 up ours" in story.host
        assert len([report for report in story.passes() if report.outcomes]) == 1


# --- looking without being told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "sysctl -w net/ipv4/conf/eth0/arp_ignore=0",
        "sysctl -w net/ipv4/conf/eth0/arp_announce=0",
        "sysctl -w net/ipv6/conf/dsr-ipip/disable_ipv6=1",
        "sysctl -w net/ipv6/conf/dsr-ipip/addr_gen_mode=0",
    ],
)
async def test_the_poll_finds_what_the_kernel_does_not_announce(command: str) -> None:
    """The ARP and most IPv6 sysctls change without a word; a look every 5 s finds them."""
    async with Story() as story:
        await story.hears(command)
        assert story.host != IN_SYNC

        await story.seconds(5)

        assert story.host == IN_SYNC


async def test_the_poll_reads_no_addresses() -> None:
    """It looks at links, sysctls and routes; ten thousand VIPs cost it nothing."""
    async with Story() as story:
        story.kernel.looks.clear()
        await story.seconds(20)

        assert set(story.kernel.looks) == {HOST}


async def test_the_resync_finds_what_even_that_misses() -> None:
    """If every event were lost without a trace, the agent would still converge within a minute."""
    async with Story() as story:
        with story.kernel.silently():
            story.kernel.meddle("ip addr flush dev lo")
        await story.seconds(30)
        assert "192.0.2.10" not in story.host

        await story.seconds(31)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        assert story.reports[-1].in_sync


async def test_the_rhythm_is_what_the_file_says() -> None:
    """Poll and resync intervals are the operator's."""
    async with Story(rhythm=Rhythm(poll=1.0, resync=10.0)) as story:
        await story.moment()
        story.passes()
        await story.seconds(10.5)

        scopes = [report.scope for report in story.passes()]
        assert (scopes.count(HOST), scopes.count(EVERYTHING)) == (9, 1)


# --- fights -----------------------------------------------------------------------------------------------------


async def test_the_tenth_repair_within_a_minute_is_a_fight() -> None:
    """It is told once, with the number and the culprit; from then on repairs come less often, but never end."""
    async with Story() as story:
        story.kernel.processes[77] = "chef (process 77)"
        story.log()
        for _ in range(FIGHT_REPAIRS - 1):
            await story.hears(DELETE, by=77)
            assert "192.0.2.10/32 ours" in story.host
        assert not any("keeps undoing" in line for line in story.log())

        await story.hears(DELETE, by=77)

        assert story.log() == [
            f"WARNING VIP {VIP}: it is missing; put back in 0.0 ms (undone by chef (process 77))",
            f"ERROR VIP {VIP}: somebody keeps undoing it, 10 times within a minute (last by chef (process 77)); "
            "repairing it less often from now on",
        ]


async def fought_over(story: Story) -> None:
    """Undo a VIP until the agent takes it for a fight."""
    for _ in range(FIGHT_REPAIRS):
        await story.hears(DELETE)
    story.log()
    story.passes()


async def test_what_is_fought_over_is_held_back_for_a_growing_while() -> None:
    """The eleventh repair waits half a second, the next a second, and at most ten."""
    async with Story() as story:
        await fought_over(story)
        pauses = []
        for _ in range(7):
            start = story.clock.now()
            story.kernel.meddle(DELETE)
            while "192.0.2.10" not in story.host:
                await story.seconds(0.1)
            pauses.append(round(story.clock.now() - start, 1))

        assert pauses[0] <= 0.5
        assert pauses == sorted(pauses)
        assert pauses[-1] == LONGEST_PAUSE


async def test_a_held_repair_is_said_to_be_held() -> None:
    """The pass reports it, with the reason; and it is done once the pause is over, without another event."""
    async with Story() as story:
        await fought_over(story)

        await story.hears(DELETE)

        [report] = story.passes()
        [outcome] = report.outcomes
        assert outcome.result is Result.HELD
        assert str(outcome.error) == "held back, because somebody keeps undoing it"
        assert "192.0.2.10" not in story.host
        await story.seconds(0.5)
        assert "192.0.2.10/32 ours" in story.host


async def test_one_fight_holds_nothing_else_back() -> None:
    """The other VIP comes back at once."""
    async with Story() as story:
        await fought_over(story)

        await story.hears("ip addr flush dev lo")

        assert "192.0.2.10" not in story.host
        assert "2001:db8::10/128 ours" in story.host


async def test_a_fight_ends_when_nobody_undoes_it_for_a_minute() -> None:
    """It is told once, and the next drift is repaired at once again."""
    async with Story() as story:
        await fought_over(story)

        await story.seconds(70)

        assert story.log() == [f"INFO VIP {VIP}: left in peace again"]
        await story.hears(DELETE)
        assert "192.0.2.10/32 ours" in story.host


async def test_first_passes_reloads_and_retries_are_no_fights() -> None:
    """Only what drifted counts: reading the file twenty times is no quarrel."""
    async with Story() as story:
        one = FILE.replace("192.0.2.10", "192.0.2.20")
        for _ in range(20):
            await story.reload(one)
            await story.reload(FILE)

        assert not any("undoing" in line for line in story.log())


# --- retries ----------------------------------------------------------------------------------------------------


async def test_a_vip_that_fails_is_tried_again_soon_although_other_passes_come_between() -> None:
    """The announcement of our own new tunnel leads to a look at the host; that does not forget the VIP."""
    story = Story()
    story.kernel.fail_next(AddAddress, Transient("no memory"))
    async with story:
        await story.moment()
        assert len(story.reports) > 1, "another pass came between"

        await story.seconds(0.3)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        assert [report.cause for report in story.reports if report.outcomes] == [PassCause.START, PassCause.RETRY]


async def test_a_vip_is_retried_although_a_tunnel_never_can_be() -> None:
    """A lasting trouble with one thing does not push the retries of another out of sight."""
    story = Story(rhythm=Rhythm(poll=5.0, resync=3600.0))
    story.kernel.fail_always(AddLink, Transient("never"))
    async with story:
        await story.seconds(300)
        story.kernel.fail_next(AddAddress, Transient("once"))
        await story.hears(DELETE)
        assert "192.0.2.10" not in story.host

        await story.seconds(31)

        assert "192.0.2.10/32 ours" in story.host
        story.kernel.heal()


async def test_a_kernel_that_cannot_be_read_is_read_again() -> None:
    """Even the look may be refused; the agent says so, goes on, and tries again."""
    story = Story()
    story.kernel.refuse_to_be_read_next(OSError(12, "Cannot allocate memory"))
    async with story:
        assert story.host == str(Story(host=BARE).kernel)
        assert story.log()[-1] == "ERROR this host: the kernel cannot be read: Cannot allocate memory"

        await story.seconds(0.5)

        assert story.host == IN_SYNC
        assert story.log()[-1] == "INFO in sync again"


# --- stopping and reloading -------------------------------------------------------------------------------------


async def test_stopping_finishes_the_pass_that_is_under_way() -> None:
    """Half a tunnel would be worse than none or a whole one."""
    story = Story()
    story.kernel.before_next(AddLink, story.reconciler.stop)
    async with story:
        assert story.host == IN_SYNC
        assert len(story.reports) == 1


async def test_a_reload_adds_and_removes_and_leaves_the_rest_alone() -> None:
    """The VIP that is gone from the file is gone from the host; the kept one was not touched; foreign ones stay."""
    async with Story() as story:
        await story.hears("ip addr add 198.51.100.1/32 dev lo")
        story.log()
        story.passes()

        await story.reload(FILE.replace("2001:db8::10", "192.0.2.11"))

        assert story.log() == ["INFO read the file again: 1 tunnel, 2 VIPs; 2 steps, in sync after 0.0 ms"]
        assert [str(outcome.action) for outcome in story.reports[0].outcomes] == [
            "add 192.0.2.11/32 on lo",
            "delete 2001:db8::10/128 on lo",
        ], "additions come before deletions"
        assert story.host == IN_SYNC.replace("  2001:db8::10/128 ours\n", "  198.51.100.1/32\n  192.0.2.11/32 ours\n")


async def test_a_reload_that_changes_the_tunnel_changes_it_in_place_or_beside() -> None:
    """Another name is another tunnel: the new one is there before the old one goes."""
    async with Story() as story:
        story.passes()

        await story.reload(FILE.replace('encapsulation = "ipip"', 'encapsulation = "gre"'))

        steps = [str(outcome.action) for outcome in story.reports[0].outcomes]
        assert steps.index("bring dsr-gre up") < steps.index("delete tunnel dsr-ipip")
        assert "dsr-ipip" not in story.host
        assert "dsr-gre gre local 10.0.3.2 up ours" in story.host


async def test_a_reload_in_the_middle_of_a_pass_is_not_lost() -> None:
    """The pass ends, and the next one is about the new file."""
    story = Story()
    story.kernel.before_next(AddLink, lambda: story.reload_now(FILE.replace("192.0.2.10", "192.0.2.99")))
    async with story:
        await story.moment()

        assert "192.0.2.99/32 ours" in story.host
        assert "192.0.2.10/" not in story.host
