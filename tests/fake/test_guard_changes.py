"""The guard while the file and the host change: no packet lost on the way, and nobody let in who should not be."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from dsr_agent.state.actions import BringUp, DeleteLink, RenameLink
from dsr_agent.state.errors import Transient
from dsr_agent.state.guard_actions import WriteGuard
from tests.fake.story import FILE, HOST, Story
from tests.fake.test_guard import GUARDED, UP, done, guard, lets_in
from tests.unit.guard.interpreter import judge
from tests.unit.guard.packets import GRE, IPIP, UDP, datagram, gue, inner, outer

GRE_INSTEAD = GUARDED.replace('"ipip"', '"gre"')
ANYBODY = GUARDED.replace('["10.1.0.5"]', '"any"')


# --- a tunnel that changes --------------------------------------------------------------------------------------------


async def assert_that_none_is_lost(story: Story, file: str, source: str = "10.1.0.5") -> None:
    """On the way to *file*, whichever link is up gets what *source* sends to it; at the end only the new one does."""
    table = story.kernel.machine.guard
    story.passes()
    await story.reload(file)
    there, new_is_up = True, False
    for step in [step for report in story.reports for step in done(report)]:
        table = step.table if isinstance(step, WriteGuard) else table
        there &= not isinstance(step, DeleteLink)
        new_is_up |= isinstance(step, BringUp)
        assert not there or lets_in(table, IPIP, source), f"{step}: the old link is there, and gets nothing"
        assert not new_is_up or lets_in(table, GRE, source), f"{step}: the new link is there, and gets nothing"
    assert not there
    assert new_is_up
    assert table == story.kernel.machine.guard
    assert not lets_in(table, IPIP, source)


async def test_a_tunnel_of_another_encapsulation_takes_the_place_of_one_without_a_packet_lost() -> None:
    """The old entrance stays until the old link is gone, and then goes as well."""
    async with Story(GUARDED) as story:
        await assert_that_none_is_lost(story, GRE_INSTEAD)


async def test_also_where_both_have_the_same_name() -> None:
    """Then the new link is made beside the old one, and takes over its name."""
    named = [text.replace("encapsulation", 'name = "web"\nencapsulation') for text in (GUARDED, GRE_INSTEAD)]
    async with Story(named[0]) as story:
        await assert_that_none_is_lost(story, named[1])

        assert any(isinstance(step, RenameLink) for report in story.reports for step in done(report))


async def test_also_where_anybody_may_send() -> None:
    """The balancers are told no address."""
    async with Story(ANYBODY, HOST + "240.0.0.1 is reached from 10.0.3.2\n") as story:
        assert UP in story.host

        await assert_that_none_is_lost(story, ANYBODY.replace('"ipip"', '"gre"'))


async def test_also_where_the_old_link_was_adopted_under_its_own_name() -> None:
    """Somebody had made it by hand."""
    async with Story(GUARDED, HOST + "sit0 sit down\nbyhand sit local 10.0.3.2 up\nmodules sit\n") as story:
        assert "byhand sit local 10.0.3.2 up adopted" in story.host

        await assert_that_none_is_lost(story, GRE_INSTEAD)


async def test_a_vip_of_one_tunnel_is_reached_while_that_gets_another_name() -> None:
    """Its requests are let out of the link by the name that this has at the moment, when two trade names, too."""
    two = "[guard]\nrequired = true\n" + "".join(
        f'[[tunnel]]\nname = "{name}"\nencapsulation = "gre"\nkey = {key}\nload_balancers = ["10.1.0.5"]\n'
        for name, key in (("a", 1), ("b", 2))
    )
    bound = '[[vip]]\naddress = "192.0.2.10"\ntunnels = ["a"]\n'
    traded = two.replace("key = 1", "key = 3").replace("key = 2", "key = 1").replace("key = 3", "key = 2")
    for then in ((two + bound).replace('"a"', '"c"'), traded + bound.replace('"a"', '"b"')):
        async with Story(two + bound) as story:
            table, name = guard(story), "a"
            story.passes()
            await story.reload(then)
            for step in [step for report in story.reports for step in done(report)]:
                table = step.table if isinstance(step, WriteGuard) else table
                name = step.to if isinstance(step, RenameLink) and step.name == name else name
                assert judge(table, inner("198.51.100.1", "192.0.2.10", link=name)).accepted, step
            assert table == guard(story)
            assert name in then
            assert not judge(table, inner("198.51.100.1", "192.0.2.10", link="b" if name == "a" else "a")).accepted


async def test_a_name_that_a_link_has_for_a_moment_is_not_the_guards_business() -> None:
    """Where every VIP is for every tunnel, the rules go by the group of the link."""
    async with Story(GUARDED) as story:
        story.passes()
        await story.hears("ip link set dsr-ipip name other0")
        steps = [step for report in story.passes() for step in done(report)]
        assert [type(step) for step in steps] == [RenameLink]


@pytest.mark.parametrize("busy", [False, True])
async def test_a_guard_that_is_switched_off_stays_until_the_tunnels_that_go_have_gone(busy: bool) -> None:
    """Also if they do not go at once. The table itself stays, for marked packets."""
    marked = '[[tunnel]]\nencapsulation = "dscp"\n[[vip]]\naddress = "192.0.2.77"\ndscp = 7\n'
    async with Story(GUARDED + marked) as story:
        table = guard(story)
        story.passes()
        if busy:
            story.kernel.fail_next(DeleteLink, Transient("the link is busy"))
        await story.reload("[guard]\nenabled = false\n" + marked)
        await story.seconds(60)
        for step in [step for report in story.reports for step in done(report)]:
            table = step.table if isinstance(step, WriteGuard) else table
            assert not isinstance(step, DeleteLink) or not lets_in(table, IPIP, "198.51.100.1")
        assert table == guard(story)
        assert lets_in(table, IPIP, "198.51.100.1"), "it is nobody's business any more"
        assert UP not in story.host


SIX = "[[tunnel]]\nname = 'six'\nencapsulation = 'ipip'\nload_balancers = ['2001:db8:1::5']\n"
VIPS = FILE[FILE.index("[[vip]]") :]


async def test_a_link_that_goes_takes_nothing_of_a_tunnel_of_the_other_version() -> None:
    """It was adopted, so whose it was is not known; the balancers of the one that stays send over IPv6."""
    here = "\n  2001:db8:3::2/64\n10.1.0.5 is reached from 10.0.3.2\n2001:db8:1::5 is reached from 2001:db8:3::2\n"
    host = f"lo up\neth0 arp up\n  10.0.3.2/24{here}byhand sit local 10.0.3.2 up\n"
    both = GUARDED[: GUARDED.index("[[vip]]")] + SIX + VIPS
    async with Story(both, host) as story:
        assert "dsr-ipip" not in story.host, "it was adopted"
        await story.reload("[guard]\nrequired = true\n" + SIX + VIPS)
        assert "byhand" not in story.host
        assert story.reports[-1].in_sync


@pytest.mark.parametrize("port", ["port 6080", "port 6080 local 10.0.3.2", "port 6080 protocol 4"])
async def test_through_a_udp_port_that_somebody_else_has_opened_nobody_gets_in(port: str) -> None:
    """Behind it the kernel hands to our link what comes, and asks the packet filter no more (fou_udp_recv)."""
    sent = outer("198.51.100.1", "10.0.3.2", UDP, datagram(6080, gue()))
    async with Story(GUARDED, f"{HOST}modules fou\n{port}\n") as story:
        assert not judge(guard(story), sent).accepted
        assert not judge(guard(story), replace(sent, source=ip_address("10.1.0.5"))).accepted
        assert judge(guard(story), replace(sent, destination=ip_address("10.0.3.3"))).accepted
        assert lets_in(guard(story), IPIP)
        [warning] = story.reports[-1].remaining.warnings
        assert "the guard drops what comes to it at 10.0.3.2" in str(warning)
        await story.hears("ip fou del port 6080" + " local 10.0.3.2" * ("local" in port))
        await story.seconds(10)
        assert judge(guard(story), sent).accepted, "nobody hands it to a tunnel any more"


async def test_a_port_of_before_is_shut_when_nobody_knows_for_whom_it_was_open() -> None:
    """There was no guard then; and the new one has no place."""
    gue_ = FILE.replace('"ipip"', '"gue"')
    moved = gue_.replace("load_balancers", "port = 7000\nload_balancers")
    async with Story("[guard]\nenabled = false\n" + gue_, f"{HOST}modules fou\nport 7000 protocol 4\n") as story:
        await story.reload("[guard]\nrequired = true\n" + moved)
        assert "port 6080 local 10.0.3.2 ours" in story.host
        for number in (6080, 7000):
            stranger = outer("198.51.100.1", "10.0.3.2", UDP, datagram(number, gue()))
            assert not judge(guard(story), stranger).accepted


async def test_a_balancer_more_and_one_less() -> None:
    """In place: the tunnel is left alone."""
    async with Story(GUARDED) as story:
        await story.reload(GUARDED.replace('["10.1.0.5"]', '["10.1.0.5", "10.1.0.6"]'))
        assert [lets_in(guard(story), IPIP, f"10.1.0.{end}") for end in (5, 6, 7)] == [True, True, False]
        assert story.log()[-1].startswith("INFO read the file again: 1 tunnel, 2 VIPs; 1 step,")

        await story.reload(GUARDED)
        assert [lets_in(guard(story), IPIP, f"10.1.0.{end}") for end in (5, 6, 7)] == [True, False, False]


async def test_an_address_that_comes_and_goes_is_nobodys_attack_on_the_guard() -> None:
    """The guard follows it; containers may do that by the minute, and that is no fight."""
    async with Story(GUARDED) as story:
        story.log()
        for number in range(10):
            await story.hears(f"ip addr add 10.77.0.{number}/24 dev eth0")
            assert not judge(guard(story), inner(f"10.77.0.{number}", "192.0.2.10")).accepted

        assert not [line for line in story.log() if "keeps undoing" in line or line == "WARNING guard: it was changed"]


# --- devices that the kernel makes by itself --------------------------------------------------------------------------

NUMBERED = HOST + "tunl0 ipip protocol 0 up\n  10.77.0.1/24\nmodules ipip\n"
BARE = NUMBERED.replace("  10.77.0.1/24\n", "")
SPARED = {
    BARE: "WARNING tunl0: it is up, and decapsulates for every address of this host: ip link set tunl0 down, or write "
    '[guard] fallback_devices = "down"',
    NUMBERED: "WARNING tunl0: it is up and has an address, and decapsulates for every address of this host: "
    'ip link set tunl0 down, or write [guard] fallback_devices = "down"',
}


@pytest.mark.parametrize("policy", ["auto", "down", "ignore"])
@pytest.mark.parametrize("host", [BARE, NUMBERED], ids=["bare", "numbered"])
async def test_a_fallback_device_that_is_up(policy: str, host: str) -> None:
    """Taken down, or left alone and told once; its address is nobody's business in any case."""
    spared = policy == "ignore" or (policy == "auto" and host == NUMBERED)
    async with Story(f'[guard]\nfallback_devices = "{policy}"\n{FILE}', host) as story:
        assert ("tunl0 ipip protocol 0 up" in story.host) == spared
        assert ("  10.77.0.1/24\n" in story.host) == (host == NUMBERED)
        assert story.log()[1:] == ([SPARED[host]] if spared else [])
        assert story.reports[-1].in_sync
        await story.seconds(300)
        assert story.log() == [], "told once"


async def test_a_fallback_device_that_somebody_brings_up_is_taken_down_at_once() -> None:
    """One that got an address first is spared."""
    async with Story(GUARDED) as story:
        story.log()
        await story.hears("ip link set sit0 up")
        assert "sit0 sit down" in story.host
        assert story.log() == ["WARNING sit0: it decapsulates for every address of this host; taken down in 0.0 ms"]

        await story.hears("ip addr add 10.77.0.1/24 dev sit0", "ip link set sit0 up")
        assert "sit0 sit up" in story.host
        assert SPARED[NUMBERED].replace("tunl0", "sit0") in story.log()
