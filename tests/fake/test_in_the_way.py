"""What stands in a VIP's way is seen by looking at the host: it is told as long as it does, and no longer."""

from __future__ import annotations

from ipaddress import ip_address

from dsr_agent.service.overview import Overview
from dsr_agent.state.model import AddressKey
from tests.fake.story import FILE, HOST, Story

MARKED = """
[[tunnel]]
encapsulation = "dscp"

[[vip]]
address = "2001:db8::10"
dscp = 9
"""
SIX = AddressKey("lo", ip_address("2001:db8::10"), 128)
FOUR = AddressKey("lo", ip_address("192.0.2.10"), 32)


def known(story: Story) -> Overview:
    """What is known after all passes so far."""
    overview = Overview()
    for report in story.reports:
        overview = overview.after(report)
    return overview


async def test_an_address_at_which_marked_packets_arrive_comes_late() -> None:
    async with Story(MARKED, HOST) as story:
        assert "this host has no IPv6 address (yet)" in known(story).undone[SIX][0]
        await story.hears("ip addr add 2001:db8:1::2/64 dev eth0")
        assert known(story).in_sync


async def test_a_vip_that_is_put_back_does_not_make_it_well() -> None:
    """The look at the VIP alone does not show what the look at the host has shown."""
    async with Story(MARKED, HOST) as story:
        await story.hears("ip addr del 2001:db8::10/128 dev lo")
        assert "2001:db8::10/128 ours" in story.host
        assert SIX in known(story).undone


async def test_the_vip_is_an_address_of_a_card_for_a_while() -> None:
    async with Story(FILE, HOST) as story:
        await story.hears("ip addr add 192.0.2.10/24 dev eth0")
        assert "answers ARP for it" in known(story).undone[FOUR][0]
        await story.hears("ip addr del 192.0.2.10/24 dev eth0")
        assert known(story).in_sync


async def test_the_vip_with_another_prefix_is_in_its_place_for_a_while() -> None:
    """IPv6 has an address once on a link. No tunnel of this file is about IPv6."""
    async with Story(FILE, HOST) as story:
        story.kernel.meddle("ip addr del 2001:db8::10/128 dev lo", "ip addr add 2001:db8::10/64 dev lo")
        await story.moment()
        assert "2001:db8::10/128 ours" not in story.host
        assert "stands in its way" in known(story).undone[SIX][0]
        await story.hears("ip addr del 2001:db8::10/64 dev lo")
        assert "2001:db8::10/128 ours" in story.host
        assert known(story).in_sync
