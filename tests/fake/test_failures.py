"""Every verb broken once, and broken for good: one failure does not stop the rest, and nothing is forgotten."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from dsr_agent import printing
from dsr_agent.reconcile.loop import plan_now
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.service.selftest import every_way
from dsr_agent.service.status import Status
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteAddress,
    DeleteLink,
    LoadModule,
    MarkLink,
    RenameLink,
    ReplaceAddress,
    WriteSysctl,
)
from dsr_agent.state.errors import NotPermitted, Transient, Unsupported
from dsr_agent.state.report import Result
from dsr_agent.truth.probe import pairs
from tests.fake.story import FILE, HOST, IN_SYNC, Story, desired, sorted_lines

# A host on which the first pass needs every verb there is.
EVERY_VERB_FILE = """
[[tunnel]]
encapsulation = "ipip"
load_balancers = ["10.1.0.5"]

[[tunnel]]
encapsulation = "gre"
load_balancers = ["10.1.0.5"]

[[tunnel]]
name = "keyed"
encapsulation = "gre"
key = 7
load_balancers = ["10.1.0.5"]

[[vip]]
address = "192.0.2.10"

[[vip]]
address = "192.0.2.11"
"""
EVERY_VERB_HOST = """
lo up
  192.0.2.11/32
  203.0.113.9/32 ours
eth0 arp up
  10.0.3.2/24
gre0 gre down
dsr-gre gre local 10.9.9.9 up ours
  192.0.0.8/32 ours
lost gre local 10.0.3.2 key 7 up ours
  192.0.0.8/32 ours
old gre local 10.0.3.2 key 99 up ours
  192.0.0.8/32 ours
10.1.0.5 is reached from 10.0.3.2
modules ip_gre
"""
EVERY_VERB_DONE = """\
lo up
  192.0.2.11/32 ours scope global label lo
  192.0.2.10/32 ours
eth0 arp up
  10.0.3.2/24
  arp_ignore=1 arp_announce=2
gre0 gre down
dsr-gre gre local 10.0.3.2 up ours
  192.0.0.8/32 ours
  rp_filter=2 ipv6.addr_gen_mode=1
keyed gre local 10.0.3.2 key 7 up ours
  192.0.0.8/32 ours label keyed
  rp_filter=2 ipv6.addr_gen_mode=1
sit0 sit down
dsr-ipip sit local 10.0.3.2 up ours
  192.0.0.8/32 ours
  rp_filter=2 ipv6.addr_gen_mode=1
10.1.0.5 is reached from 10.0.3.2
modules ip_gre sit"""


def same(host: str) -> object:
    """A host, whatever the label of its tunnels' addresses: a rename may or may not have gone over them."""
    return sorted_lines(re.sub(r"(192.0.0.8/32 ours) label \S+", r"\1", host))


VERBS: list[type[Action]] = [
    AddLink,
    ChangeLink,
    MarkLink,
    RenameLink,
    BringUp,
    DeleteLink,
    AddAddress,
    ReplaceAddress,
    DeleteAddress,
    WriteSysctl,
]


async def test_the_host_of_these_tests_needs_every_verb() -> None:
    """So that a new verb cannot be left out of the matrix below without being noticed."""
    async with Story(EVERY_VERB_FILE, EVERY_VERB_HOST) as story:
        assert {type(outcome.action) for outcome in story.reports[0].outcomes} == {*VERBS, LoadModule}
        assert story.host == EVERY_VERB_DONE
        assert story.reports[0].in_sync


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_that_fails_once_is_made_good_by_the_next_pass(verb: type[Action]) -> None:
    """The kernel refuses one step for a passing reason; a quarter of a second later all is well."""
    story = Story(EVERY_VERB_FILE, EVERY_VERB_HOST)
    story.kernel.fail_next(verb, Transient("no buffer space available"))
    async with story:
        await story.seconds(1)

        assert same(story.host) == same(EVERY_VERB_DONE)
        assert story.reports[-1].in_sync
        assert story.log()[-1] == "INFO in sync again"


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_whose_answer_is_lost_although_it_was_done(verb: type[Action]) -> None:
    """Read-back tells: what was done is not done twice, and what waited for it is done by the next pass."""
    story = Story(EVERY_VERB_FILE, EVERY_VERB_HOST)
    story.kernel.fail_next(verb, Transient("the answer was lost"), done=True)
    async with story:
        await story.seconds(1)

        assert same(story.host) == same(EVERY_VERB_DONE)
        assert story.reports[-1].in_sync


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_that_always_fails_does_not_stop_the_rest(verb: type[Action]) -> None:
    """All that does not depend on it is done; the trouble is told once; once it is gone, so is the trouble."""
    story = Story(EVERY_VERB_FILE, EVERY_VERB_HOST)
    story.kernel.fail_always(verb, NotPermitted("the kernel says no", "give CAP_NET_ADMIN"))
    async with story:
        await story.seconds(300)

        first = story.reports[0]
        independent = [o for o in first.outcomes if type(o.action) is not verb and o.result is not Result.SKIPPED]
        assert {outcome.result for outcome in independent} == {Result.DONE}
        assert not all(report.in_sync for report in story.reports[-10:])
        told = [line for line in story.log() if line.startswith("ERROR") and "the kernel says no" in line]
        assert told
        assert len(told) == len(set(told)), "the same trouble is told once, however often it is met"

        story.kernel.heal()
        await story.seconds(31)

        assert same(story.host) == same(EVERY_VERB_DONE)
        assert story.log()[-1] == "INFO in sync again"


async def test_a_module_that_cannot_be_loaded_from_here_is_loaded_by_the_kernel() -> None:
    """Loading is a courtesy: creating the link does it as well, and both ways end alike."""
    story = Story()
    story.kernel.before_next(LoadModule, story.kernel.machine.loadable.clear)
    story.kernel.before_next(AddLink, lambda: story.kernel.machine.loadable.add("sit"))
    async with story:
        assert story.host == IN_SYNC


async def test_a_module_that_cannot_be_had_is_named_before_anything_is_tried() -> None:
    """By the plan, and so by ``status``; making the link is tried all the same, and nobody says a module was loaded."""
    story = Story()
    story.kernel.machine.loadable.clear()

    todo, observed = await plan_now(story.kernel, desired(FILE))

    assert [str(problem) for problem in todo.problems] == [
        "dsr-ipip: the running kernel has no module sit: install the package"
    ]
    assert not [action for action in todo.actions if isinstance(action, LoadModule)]
    assert [action for action in todo.actions if isinstance(action, AddLink)]
    lines = printing.status(Status.of(desired(FILE), observed, None)).splitlines()
    assert "  the running kernel has no module sit: install the package" in lines
    async with story:
        assert story.log()[1] == "ERROR tunnel dsr-ipip: the running kernel has no module sit: install the package"
        story.kernel.machine.loadable.add("sit")
        await story.seconds(300)
        assert story.log()[-1] == "INFO in sync again"


async def test_ipv4_goes_on_where_the_link_for_both_cannot_be_had() -> None:
    """One IPv6 VIP is behind IP in IP, and there is no ``sit``: it is not ready, all else is; until there is one."""
    story = Story()
    story.kernel.machine.loadable.discard("sit")
    async with story:
        assert "dsr-ipip ipip local 10.0.3.2 up ours" in story.host
        assert story.log()[1:] == [
            "ERROR VIP 2001:db8::10/128 on lo: dsr-ipip brings IPv4 VIPs only: the running kernel has no module sit: "
            "install the package"
        ]
        todo, observed = await plan_now(story.kernel, desired(FILE))
        assert not todo.actions
        there = every_way(resolve(desired(FILE), observed), desired(FILE))
        assert [str(pair) for pair in pairs(desired(FILE), there)] == ["VIP 192.0.2.10 by dsr-ipip"]

        story.kernel.machine.loadable.add("sit")
        await story.seconds(300)

        assert story.log()[-1] == "INFO in sync again"
        assert "dsr-ipip sit local 10.0.3.2 up ours" in story.host


async def test_a_module_that_was_not_loaded_is_not_said_to_be() -> None:
    """It was there to be loaded, and yet could not be."""
    story = Story()
    story.kernel.before_next(LoadModule, story.kernel.machine.loadable.clear)
    async with story:
        [load] = [o for o in story.reports[0].outcomes if isinstance(o.action, LoadModule)]
        assert str(load) == "load module sit: skipped (the kernel is asked for it when the link is made)"
        story.kernel.machine.loadable.add("sit")
        await story.seconds(300)


async def test_dependants_of_a_failed_step_are_skipped_with_the_reason() -> None:
    """No tunnel: its sysctls, address, mark and state wait; the VIPs and ARP silence do not."""
    story = Story()
    story.kernel.fail_always(AddLink, Unsupported("the running kernel has no module sit", "install the package"))
    async with story:
        outcomes = {str(outcome.action): outcome for outcome in story.reports[0].outcomes}
        skipped = [name for name, outcome in outcomes.items() if outcome.result is Result.SKIPPED]
        assert skipped == [
            "set net/ipv4/conf/dsr-ipip/rp_filter = 2",
            "set net/ipv4/conf/dsr-ipip/forwarding = 0",
            "set net/ipv6/conf/dsr-ipip/addr_gen_mode = 1",
            "set net/ipv6/conf/dsr-ipip/forwarding = 0",
            "set net/ipv6/conf/dsr-ipip/disable_ipv6 = 0",
            "add 192.0.0.8/32 on dsr-ipip",
            "mark dsr-ipip as ours",
            "bring dsr-ipip up",
        ]
        assert {str(outcomes[name].error) for name in skipped} == {"it waits for dsr-ipip"}
        assert "192.0.2.10/32 ours" in story.host
        assert "arp_ignore=1 arp_announce=2" in story.host
        assert story.log()[1] == ("ERROR tunnel dsr-ipip: the running kernel has no module sit: install the package")
        story.kernel.heal()


async def test_a_tunnel_is_not_brought_up_before_its_address_is_there() -> None:
    """Without one, loose reverse-path filtering drops everything: the tunnel would look well and carry nothing."""
    story = Story()
    story.kernel.fail_always(AddAddress, Transient("no"))
    async with story:
        [bring_up, *_] = [o for o in story.reports[0].outcomes if isinstance(o.action, BringUp)]
        assert bring_up.result is Result.SKIPPED
        assert str(bring_up.error) == "it waits for 192.0.0.8/32 on dsr-ipip"
        assert "dsr-ipip sit local 10.0.3.2 down ours" in story.host

        story.kernel.heal()
        await story.seconds(1)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)


async def test_what_is_replaced_goes_only_when_its_successor_is_there() -> None:
    """The stand-in cannot be made: the old tunnel stays, and carries on."""
    host = HOST + "dsr-ipip sit local 10.0.3.2 remote 10.1.0.5 up ours\n  192.0.0.8/32 ours\n  rp_filter=2"
    story = Story(host=host)
    story.kernel.fail_always(AddLink, Transient("no memory"))
    async with story:
        assert "dsr-ipip sit local 10.0.3.2 remote 10.1.0.5 up ours" in story.host

        story.kernel.heal()
        await story.seconds(1)

        assert "dsr-ipip sit local 10.0.3.2 up ours" in story.host
        assert "remote" not in story.host
        assert ".new" not in story.host


async def test_retries_come_at_a_growing_distance() -> None:
    """A quarter of a second, then twice as long each time, at most half a minute."""
    story = Story()
    story.kernel.fail_always(AddLink, Unsupported("no module ipip"))
    async with story:
        times = [story.clock.now()]
        while len(times) < 9:
            count = len(story.reports)
            await story.seconds(0.05)
            times += [story.clock.now()] if len(story.reports) > count else []
        story.kernel.heal()

    gaps = [round(later - earlier, 1) for earlier, later in pairwise(times[1:])]
    assert gaps[:3] == [0.5, 1.0, 2.0]
