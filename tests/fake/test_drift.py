"""Another program undoes something, and it is put right: the machine, the log line and what it cost, each time."""

from __future__ import annotations

import pytest

from dsr_agent.state.actions import AddAddress
from tests.fake.story import FILE, HOST, IN_SYNC, Story, sorted_lines

BY = " (undone by ip (process 4242))"
SMALL = """
[[tunnel]]
encapsulation = "ipip"
load_balancers = ["10.1.0.5"]
"""

# What somebody does, and what the agent says while it puts it right.
REPAIRED: dict[str, tuple[list[str], list[str]]] = {
    "VIP deleted": (
        ["ip addr del 192.0.2.10/32 dev lo"],
        [f"WARNING VIP 192.0.2.10/32 on lo: it is missing; put back in 0.0 ms{BY}"],
    ),
    "IPv6 VIP deleted": (
        ["ip addr del 2001:db8::10/128 dev lo"],
        ["WARNING VIP 2001:db8::10/128 on lo: it is missing; put back in 0.0 ms"],
    ),
    "all VIPs flushed": (
        ["ip addr flush dev lo"],
        [
            f"WARNING VIP 192.0.2.10/32 on lo: it is missing; put back in 0.0 ms{BY}",
            "WARNING VIP 2001:db8::10/128 on lo: it is missing; put back in 0.0 ms",
        ],
    ),
    "VIP's mark wiped": (
        ["ip addr replace 192.0.2.10/32 dev lo"],
        [f"WARNING VIP 192.0.2.10/32 on lo: its mark was wiped; marked as ours in 0.0 ms{BY}"],
    ),
    "lo down": (
        ["ip link set lo down"],
        [
            "WARNING lo: it is down; brought up in 0.0 ms",
            "WARNING VIP 2001:db8::10/128 on lo: it is missing; put back in 0.0 ms",
        ],
    ),
    "lo down and up, which takes the IPv6 VIP": (
        ["ip link set lo down", "ip link set lo up"],
        ["WARNING VIP 2001:db8::10/128 on lo: it is missing; put back in 0.0 ms"],
    ),
    "tunnel deleted": (
        ["ip link del dsr-ipip"],
        ["WARNING tunnel dsr-ipip: it is missing; made again in 0.0 ms"],
    ),
    "the module's devices removed": (
        ["rmmod sit"],
        ["WARNING tunnel dsr-ipip: it is missing; made again in 0.0 ms"],
    ),
    "tunnel down": (
        ["ip link set dsr-ipip down"],
        ["WARNING tunnel dsr-ipip: it is down; brought up in 0.0 ms"],
    ),
    "tunnel's local changed": (
        ["ip link change dsr-ipip type sit local 10.9.9.9"],
        ["WARNING tunnel dsr-ipip: it was changed; changed in place to local 10.0.3.2 remote any in 0.0 ms"],
    ),
    "tunnel's address deleted": (
        ["ip addr del 192.0.0.8/32 dev dsr-ipip"],
        [f"WARNING 192.0.0.8/32 on dsr-ipip: it is missing; put back in 0.0 ms{BY}"],
    ),
    "tunnel's group wiped": (
        ["ip link set dsr-ipip group 0"],
        ["WARNING tunnel dsr-ipip: its mark was wiped; marked as ours in 0.0 ms"],
    ),
    "tunnel's alias changed": (
        ["ip link set dsr-ipip alias mine"],
        ["WARNING tunnel dsr-ipip: its mark was wiped; marked as ours in 0.0 ms"],
    ),
    "strict reverse-path filter on the tunnel": (
        ["sysctl -w net/ipv4/conf/dsr-ipip/rp_filter=1"],
        ["WARNING net/ipv4/conf/dsr-ipip/rp_filter: it was changed; set to 2 in 0.0 ms"],
    ),
    "forwarding on the tunnel": (
        ["sysctl -w net/ipv4/conf/dsr-ipip/forwarding=1"],
        ["WARNING net/ipv4/conf/dsr-ipip/forwarding: it was changed; set to 0 in 0.0 ms"],
    ),
    "IPv6 forwarding on the tunnel": (
        ["sysctl -w net/ipv6/conf/dsr-ipip/forwarding=1"],
        ["WARNING net/ipv6/conf/dsr-ipip/forwarding: it was changed; set to 0 in 0.0 ms"],
    ),
    "tunnel down, its local and its reverse-path filter changed": (
        [
            "ip link set dsr-ipip down",
            "ip link change dsr-ipip type sit local 10.9.9.9",
            "sysctl -w net/ipv4/conf/dsr-ipip/rp_filter=1",
        ],
        [
            "WARNING tunnel dsr-ipip: it was changed; changed in place to local 10.0.3.2 remote any in 0.0 ms",
            "WARNING net/ipv4/conf/dsr-ipip/rp_filter: it was changed; set to 2 in 0.0 ms",
            "WARNING tunnel dsr-ipip: it is down; brought up in 0.0 ms",
        ],
    ),
}


@pytest.mark.parametrize("what", REPAIRED)
async def test_what_is_undone_is_put_right_at_once_and_told_once(what: str) -> None:
    """As soon as it is announced; and afterwards the host is what it was, line for line."""
    commands, told = REPAIRED[what]
    async with Story() as story:
        story.kernel.processes[4242] = "ip (process 4242)"
        story.log()

        await story.hears(*commands, by=4242)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        assert sorted(story.log()) == sorted(told)
        assert story.reports[-1].in_sync
        await story.seconds(600)
        assert story.log() == [], "a quiet hour is a quiet journal"


async def test_a_link_of_ours_under_another_name_gets_its_name_back() -> None:
    """It is renamed, not made again: no packet is lost."""
    async with Story() as story:
        story.log()

        await story.hears("ip link set dsr-ipip name other")

        assert "dsr-ipip sit local 10.0.3.2 up ours" in story.host
        assert "other" not in story.host
        assert story.log() == ["WARNING tunnel dsr-ipip: it is ours under another name; renamed in 0.0 ms"]


async def test_a_deleted_vip_costs_one_look_at_it_and_one_step() -> None:
    """Not a look at the links, the sysctls and the routes, and not at the other VIP."""
    async with Story() as story:
        story.passes()
        story.kernel.looks.clear()

        await story.hears("ip addr del 192.0.2.10/32 dev lo")

        [report] = story.passes()
        assert [str(key) for key in report.scope.addresses] == ["192.0.2.10/32 on lo"]
        assert (report.scope.host, report.scope.everything) == (False, False)
        assert [str(action) for action in report.plan.actions] == ["add 192.0.2.10/32 on lo"]
        assert all(not (look.host or look.everything) for look in story.kernel.looks)


async def test_one_vip_deleted_among_ten_thousand_is_a_pass_about_that_one() -> None:
    """The cost of a change is not the cost of all VIPs."""
    vips = "".join(f'\n[[vip]]\naddress = "198.18.{n // 250}.{n % 250 + 1}"\n' for n in range(10_000))
    async with Story(SMALL + vips) as story:
        assert story.log() == ["INFO started: 1 tunnel, 10000 VIPs; 10011 steps, in sync after 0.0 ms"]
        story.passes()

        await story.hears("ip addr del 198.18.7.8/32 dev lo")

        [report] = story.passes()
        assert [str(key) for key in report.scope.addresses] == ["198.18.7.8/32 on lo"]
        assert [str(outcome) for outcome in report.outcomes] == ["add 198.18.7.8/32 on lo: done"]
        assert report.in_sync


async def test_what_does_not_concern_us_leads_to_nothing() -> None:
    """Other links, and other addresses of IPv6."""
    async with Story() as story:
        story.log()
        story.passes()

        await story.hears(
            "ip link add vethX type veth",
            "ip link set vethX up",
            "ip addr add 2001:db8:1::1/64 dev vethX",
        )

        assert story.log() == []
        assert story.passes() == []


async def test_a_foreign_address_on_our_link_survives() -> None:
    """An address that we did not mark stays, even on our tunnel, whatever happens around it."""
    async with Story() as story:
        await story.hears("ip addr add 198.51.100.7/32 dev dsr-ipip", "ip addr del 192.0.0.8/32 dev dsr-ipip")
        await story.seconds(600)

        assert "  198.51.100.7/32\n" in story.host
        assert "  192.0.0.8/32 ours\n" in story.host


async def test_an_address_with_our_mark_that_nobody_asked_for_goes_at_the_next_resync() -> None:
    """A left-over of ours (or of somebody who writes our number) is swept."""
    async with Story() as story:
        await story.hears("ip addr add 203.0.113.1/32 dev lo proto 0xd5")
        story.log()

        await story.seconds(61)

        assert "203.0.113.1" not in story.host
        assert story.log() == [
            "WARNING 203.0.113.1/32 on lo: it is not in the file (any more); removed in 0.0 ms",
        ]


async def test_the_tunnel_follows_the_address_of_the_host() -> None:
    """DHCP gives another address: the tunnel is changed in place, never made anew."""
    async with Story() as story:
        story.log()
        story.kernel.meddle("ip addr add 10.0.3.99/24 dev eth0", "ip addr del 10.0.3.2/24 dev eth0")
        story.kernel.reach("10.1.0.5", "10.0.3.99")

        await story.seconds(1)

        assert story.host == IN_SYNC.replace("10.0.3.2", "10.0.3.99")
        assert story.log() == [
            "WARNING tunnel dsr-ipip: it was changed; changed in place to local 10.0.3.99 remote any in 0.0 ms"
        ]
        assert not any(isinstance(o.action, AddAddress) for r in story.reports[1:] for o in r.outcomes)


async def test_the_tunnel_keeps_its_address_while_the_host_has_none() -> None:
    """The lease is lost for a while: the tunnel stays as it is, and the traffic resumes by itself."""
    async with Story() as story:
        story.log()
        await story.hears("ip addr del 10.0.3.2/24 dev eth0")
        story.kernel.reach("10.1.0.5", None)
        await story.seconds(1)

        assert "dsr-ipip sit local 10.0.3.2 up ours" in story.host
        assert story.log() == [
            "ERROR tunnel dsr-ipip: there is no route to its load balancers (yet), so its local address is not known"
        ]

        await story.hears("ip addr add 10.0.3.2/24 dev eth0")
        story.kernel.reach("10.1.0.5", "10.0.3.2")
        await story.seconds(1)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        assert story.log() == ["INFO in sync again"]


async def test_somebody_is_faster_than_the_pass() -> None:
    """What is put back while a pass is under way is success, not failure."""
    async with Story() as story:
        story.log()
        story.kernel.before_next(AddAddress, lambda: story.kernel.meddle("ip addr add 192.0.2.10/32 dev lo"))

        await story.hears("ip addr del 192.0.2.10/32 dev lo")

        assert sorted_lines(story.host) == sorted_lines(
            IN_SYNC.replace("192.0.2.10/32 ours", "192.0.2.10/32 ours scope global label lo")
        )
        assert story.reports[-1].in_sync


async def test_the_story_file_is_in_sync_with_its_host() -> None:
    """What the other tests start from."""
    async with Story(FILE, HOST) as story:
        assert story.host == IN_SYNC
