"""What holds for any file and any host."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable

from hypothesis import given, note
from hypothesis import strategies as st

from dsr_agent.reconcile.loop import apply_once, carry_out, plan_now
from dsr_agent.reconcile.plan import teardown
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
    Plan,
    RenameLink,
    ReplaceAddress,
    WriteSysctl,
)
from dsr_agent.state.errors import Transient
from dsr_agent.state.marks import owns_address, owns_link
from dsr_agent.state.model import EVERYTHING, Address, AddressKey, Desired, Link, SysctlKey
from dsr_agent.state.report import Outcome, Report, Result
from tests.fake.clock import FakeClock
from tests.fake.kernel import FakeKernel
from tests.fake.machine import Machine
from tests.fake.worlds import files, hosts

VERBS = [AddLink, ChangeLink, MarkLink, RenameLink, BringUp, DeleteLink]
VERBS += [AddAddress, ReplaceAddress, DeleteAddress, WriteSysctl]


class Watched(FakeKernel):
    """A kernel that checks every single step against the law that what is not ours is left alone."""

    async def apply(self, actions: list[Action]) -> tuple[Outcome, ...]:  # type: ignore[override]
        outcomes: list[Outcome] = []
        for action in actions:
            before = copy.deepcopy((self.machine.links, self.machine.addresses, self.machine.sysctls))
            outcomes += await super().apply([action])
            check_step(action, before, self.machine)
        return tuple(outcomes)


def check_step(
    action: Action,
    before: tuple[dict[str, Link], dict[AddressKey, Address], dict[SysctlKey, int]],
    after: Machine,
) -> None:
    """Nothing that was foreign before *action* is gone or different after it, but for adoption and raised ARP."""
    links, addresses, sysctls = before
    foreign = {name: link for name, link in links.items() if not owns_link(link)}
    for name, link in foreign.items():
        if isinstance(action, MarkLink) and action.name == name:
            assert after.links[name].outer == link.outer, "adoption changes nothing but the mark"
        elif isinstance(action, BringUp) and action.name == name == "lo":
            pass
        else:
            assert after.links.get(name) == link, f"{action} touched a link that is not ours"
    for key, address in addresses.items():
        if owns_address(address) or (key.link in links and owns_link(links[key.link])):
            continue
        if isinstance(action, ReplaceAddress) and action.key == key:
            assert (after.addresses[key].scope, after.addresses[key].label) == (address.scope, address.label)
        else:
            assert after.addresses.get(key) == address, f"{action} touched an address that is not ours"
    for path, value in sysctls.items():
        name = path.path.split("/")[3]
        if name in foreign:
            leaf = path.path.rsplit("/", 1)[-1]
            assert after.sysctls[path] == value or (leaf.startswith("arp_") and after.sysctls[path] > value)


_TRIES = 3  # something of others is adopted, replaced by what can be had, and the guard goes by that


def applied(kernel: FakeKernel, desired: Desired) -> Report:
    """One ``dsr-agent apply``, and retries if a step failed (no IPv6, say): what follows from the rest comes then."""
    for _ in range(_TRIES):
        report = asyncio.run(apply_once(kernel, desired, FakeClock()))
        if not any(outcome.result is Result.FAILED for outcome in report.outcomes):
            break
    note(f"{kernel}\n--\n" + "\n".join(map(str, report.outcomes)) + f"\n-- remaining\n{report.remaining}")
    return report


def planned(kernel: FakeKernel, desired: Desired) -> Plan:
    """What ``dsr-agent plan`` says."""
    return asyncio.run(plan_now(kernel, desired))[0]


def left(actions: Iterable[Action], host: Machine) -> list[Action]:
    """
    What is left to do, but for IPv6 addresses where IPv6 is switched off: that is told as a failure each time.

    One of them that was elsewhere before stays there, and serves, until it can come.
    """
    actions = list(actions)
    cannot = {action.key for action in actions if isinstance(action, AddAddress) and host.refuses(action.address)}
    return [
        action
        for action in actions
        if not (isinstance(action, AddAddress) and action.key in cannot)
        and not (isinstance(action, DeleteAddress) and not cannot.isdisjoint(action.after))
    ]


def told(desired: Desired, host: Machine) -> None:
    """Say what an example was about."""
    note("\n".join(map(str, [*desired.tunnels.values(), *desired.vips, "--", host])))


@given(files(), hosts())
def test_planning_again_after_applying_gives_an_empty_plan(desired: Desired, host: Machine) -> None:
    """What is left are problems that only the operator can solve, never steps."""
    told(desired, host)
    kernel = FakeKernel(host)

    report = applied(kernel, desired)

    again = planned(kernel, desired)
    assert left(again.actions, host) == []
    assert again == report.remaining, "a second look from nothing says the same"


@given(files(), hosts())
def test_nothing_that_is_not_ours_is_changed_or_deleted(desired: Desired, host: Machine) -> None:
    """Not in any single step; adoption marks what is identical, and ARP is only ever made more silent."""
    told(desired, host)

    applied(Watched(host), desired)


@given(files(), hosts())
def test_nothing_unmarked_is_ever_in_a_deletion(desired: Desired, host: Machine) -> None:
    """As planned, before anything is done."""
    told(desired, host)
    for action in planned(FakeKernel(host), desired).actions:
        if isinstance(action, DeleteAddress):
            assert owns_address(host.addresses[action.key])
        if isinstance(action, DeleteLink):
            assert owns_link(host.links[action.name])


@given(files(), hosts(), st.data())
def test_any_subset_of_failing_verbs_and_one_clean_pass_end_in_sync(
    desired: Desired, host: Machine, data: st.DataObject
) -> None:
    """Wherever the first pass was stopped, the next one goes on from there."""
    told(desired, host)
    kernel = FakeKernel(host)
    failing = data.draw(st.lists(st.sampled_from(VERBS), max_size=4))
    for verb in failing:
        kernel.fail_next(verb, Transient("no"), done=data.draw(st.booleans()))
    asyncio.run(apply_once(kernel, desired, FakeClock()))
    kernel.forget_failures()

    report = applied(kernel, desired)

    assert left(report.remaining.actions, host) == []
    assert left(planned(kernel, desired).actions, host) == []


@given(files(), files(), hosts())
def test_another_file_leads_to_the_same_as_on_a_fresh_agent(first: Desired, second: Desired, host: Machine) -> None:
    """A reload needs one pass; a restarted agent with the new file has nothing to add."""
    told(second, host)
    kernel = FakeKernel(host)
    applied(kernel, first)

    report = applied(kernel, second)

    assert left(report.remaining.actions, host) == []


@given(files(), hosts())
def test_teardown_leaves_exactly_what_is_foreign(desired: Desired, host: Machine) -> None:
    """Everything that carries our mark goes, and nothing else."""
    told(desired, host)
    kernel = FakeKernel(host)
    applied(kernel, desired)
    foreign_links = {name: link for name, link in host.links.items() if not owns_link(link)}
    foreign = {k: a for k, a in host.addresses.items() if not owns_address(a) and k.link in foreign_links}

    async def tear_down() -> Plan:
        todo = teardown(await kernel.observe(EVERYTHING))
        await carry_out(kernel, todo.actions)
        return teardown(await kernel.observe(EVERYTHING))

    assert asyncio.run(tear_down()) == Plan()
    assert host.links == foreign_links
    assert host.addresses == foreign


@given(files(), hosts())
def test_the_order_is_traffics(desired: Desired, host: Machine) -> None:
    """VIPs before tunnels, nothing up before it is safe, deletions of what is not replaced last."""
    told(desired, host)
    steps = planned(FakeKernel(host), desired).actions
    kinds = [type(step) for step in steps]
    vips = [i for i, s in enumerate(steps) if isinstance(s, AddAddress | ReplaceAddress) and s.key in desired.addresses]
    making = [i for i, kind in enumerate(kinds) if kind in (AddLink, ChangeLink, RenameLink, LoadModule)]
    replaced = {(key.link, key.ip) for key in desired.addresses if key.ip.version == 6}  # one of an address on a link
    sweeping = [
        i for i, s in enumerate(steps) if isinstance(s, DeleteAddress) and (s.key.link, s.key.ip) not in replaced
    ]
    assert max(vips, default=-1) < min(making, default=len(steps))
    assert max(vips + making, default=-1) < min(sweeping, default=len(steps))
    for name in {step.name for step in steps if isinstance(step, BringUp)} - {"lo"}:
        up = max(i for i, s in enumerate(steps) if isinstance(s, BringUp) and s.name == name)
        safe = [i for i, s in enumerate(steps) if isinstance(s, WriteSysctl) and s.link == name]
        assert max(safe, default=-1) < up
