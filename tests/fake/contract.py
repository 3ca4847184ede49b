"""
What `dsr_agent.kernel.port.Kernel` promises, as tests that know nothing of what is behind it.

``tests/fake/test_contract.py`` runs them over the `FakeKernel`, ``tests/netns/test_contract.py`` over the real one of
this machine (skipping kinds of links that it lacks, by name), and ``tests/lab/test_contract.py`` over the real one of
a machine of the lab, where every kind is there and nothing may be skipped. Whoever runs them brings a fixture *world*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Protocol, Self

import pytest

from dsr_agent.kernel.port import Kernel
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
    Why,
    WriteSysctl,
)
from dsr_agent.state.errors import DsrError, Foreign, NotYet, Unsupported
from dsr_agent.state.marks import ADDRESS_PROTO, ALIAS, LINK_GROUP
from dsr_agent.state.model import (
    EVERYTHING,
    HOST,
    ROUTES,
    Address,
    AddressKey,
    Changes,
    Key,
    Link,
    LinkKey,
    Observed,
    Outer,
    Scope,
    Sysctl,
    SysctlKey,
)
from dsr_agent.state.report import Outcome, Result

HERE = IPv4Address("10.0.3.2")
NIC = "nic"


class World(Protocol):
    """
    A host with ``lo`` up and a network card ``nic`` with 10.0.3.2/24 up, and nothing of ours. Entered with ``async with``.
    """

    kernel: Kernel

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: object) -> None: ...

    def needs(self, kind: str) -> None:
        """Skip the test where links of *kind* cannot be had."""

    def sh(self, *commands: str) -> None:
        """Somebody else runs *commands* of ``ip`` and ``sysctl -w``."""

    def reach(self, target: str, source: str) -> None:
        """From now on *target* is reached from *source*, which is on ``nic``."""


# --- helpers ------------------------------------------------------------------------------------------------------


def four(ip: str = "192.0.2.10", link: str = "lo") -> Address:
    """A VIP of ours."""
    return Address(link, ip_address(ip), 32, 254, ADDRESS_PROTO, "lo:dsr" if link == "lo" else "")


def six(ip: str = "2001:db8::10") -> Address:
    """An IPv6 VIP of ours."""
    return Address("lo", ip_address(ip), 128, 0, ADDRESS_PROTO, "", True, True)


def tunnel(name: str, kind: str, key: int | None = None, *, local: str = "10.0.3.2", checksum: bool = False) -> Link:
    """A tunnel link of ours."""
    outer = Outer(local=IPv4Address(local), key=key, checksum=checksum, protocol=4 if kind == "ipip" else 0)
    return Link(name, kind, False, LINK_GROUP, "", outer)


async def done(world: World, *actions: Action) -> None:
    """Carry out *actions*; each must be done."""
    for outcome in await world.kernel.apply(actions):
        assert outcome.result is Result.DONE, str(outcome)


async def refused(world: World, action: Action) -> DsrError:
    """Carry out *action*, which must fail; why."""
    [outcome] = await world.kernel.apply([action])
    assert outcome.result is Result.FAILED, str(outcome)
    assert outcome.error is not None
    return outcome.error


async def look(world: World, scope: Scope = EVERYTHING, targets: Sequence[str] = ()) -> Observed:
    """Read back."""
    return await world.kernel.observe(scope, [IPv4Address(target) for target in targets])


async def heard(world: World, *keys: Key) -> Changes:
    """Everything that is announced until all of *keys* have been."""
    found = Changes()
    while not set(keys) <= found.keys:
        more = await asyncio.wait_for(world.kernel.changes(), 10)
        found = Changes(found.keys | more.keys, {**found.by, **more.by}, found.lost or more.lost)
    return found


# --- looking ------------------------------------------------------------------------------------------------------


async def test_links_are_what_they_are(world: World) -> None:
    """Name, state, and whether they answer ARP; ``lo`` does not."""
    async with world:
        links = (await look(world)).links

        assert (links["lo"].up, links["lo"].answers_arp, links["lo"].outer) == (True, False, None)
        assert (links[NIC].up, links[NIC].answers_arp, links[NIC].outer) == (True, True, None)


async def test_an_address_that_somebody_added_is_read_as_the_kernel_keeps_it(world: World) -> None:
    """Labelled with the device's name, of global scope, without a mark."""
    async with world:
        world.sh("ip addr add 198.51.100.1/32 dev lo", "ip addr add 2001:db8::1/128 dev lo")

        found = (await look(world)).addresses

        assert found[AddressKey(NIC, HERE, 24)] == Address(NIC, HERE, 24, label=NIC)
        assert found[four("198.51.100.1").key] == Address("lo", ip_address("198.51.100.1"), 32, label="lo")
        assert found[six("2001:db8::1").key] == Address("lo", ip_address("2001:db8::1"), 128)


async def test_a_look_at_addresses_only_says_nothing_of_the_host(world: World) -> None:
    """Neither links nor sysctls nor routes are asked for."""
    async with world:
        await look(world)

        found = await look(world, Scope(addresses=frozenset({four().key})))

        assert (found.links, found.sysctls, found.sources, found.modules) == ({}, {}, {}, frozenset())


async def test_the_source_towards_a_target(world: World) -> None:
    """The address this host would use; a target without a route is not in it."""
    async with world:
        world.reach("10.1.0.5", str(HERE))

        found = await look(world, HOST, ["10.1.0.5", "10.77.0.5"])

        assert found.sources == {IPv4Address("10.1.0.5"): HERE}


async def test_sysctls_of_what_answers_arp_and_has_an_address(world: World) -> None:
    """Its own and those of ``all``; nothing of ``lo``."""
    async with world:
        found = (await look(world)).sysctls

        assert found[SysctlKey(f"net/ipv4/conf/{NIC}/arp_ignore")] == 0
        assert SysctlKey("net/ipv4/conf/all/rp_filter") in found
        assert SysctlKey("net/ipv6/conf/all/forwarding") in found
        assert not [key for key in found if "/lo/" in key.path]


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vip", [four(), six()], ids=["IPv4", "IPv6"])
async def test_an_added_address_is_there_exactly_as_wanted(world: World, vip: Address) -> None:
    """Mark, label, scope and lifetimes; seen by a full look and by one at this address alone."""
    async with world:
        await look(world)

        await done(world, AddAddress(vip, Why.MISSING))

        assert (await look(world, Scope(addresses=frozenset({vip.key})))).addresses[vip.key] == vip
        assert (await look(world)).addresses[vip.key] == vip


@pytest.mark.parametrize("vip", [four(), six()], ids=["IPv4", "IPv6"])
async def test_adding_what_is_there_and_deleting_what_is_gone_is_success(world: World, vip: Address) -> None:
    """Asking for what is already so needs no care."""
    async with world:
        await done(world, AddAddress(vip, Why.MISSING), AddAddress(vip, Why.MISSING))
        await done(world, DeleteAddress(vip, Why.UNWANTED), DeleteAddress(vip, Why.UNWANTED))

        assert vip.key not in (await look(world)).addresses


async def test_an_unmarked_ipv4_address_is_adopted_in_place(world: World) -> None:
    """It gets our number; scope and label stay, because they cannot change without taking it away."""
    async with world:
        world.sh("ip addr add 192.0.2.10/32 dev lo")

        await done(world, ReplaceAddress(four(), Why.ADOPTED))

        assert (await look(world)).addresses[four().key] == replace(four(), scope=0, label="lo")


async def test_an_unmarked_ipv6_address_is_adopted_in_place(world: World) -> None:
    """It gets our number, and is no source for the host's own traffic any more."""
    async with world:
        world.sh("ip addr add 2001:db8::10/128 dev lo")

        await done(world, ReplaceAddress(six(), Why.ADOPTED))

        assert (await look(world)).addresses[six().key] == six()


async def test_a_wiped_mark_leaves_the_label(world: World) -> None:
    """``ip addr replace`` takes the number of an IPv4 address; the label still tells; and it is marked again."""
    async with world:
        await done(world, AddAddress(four(), Why.MISSING))
        world.sh("ip addr replace 192.0.2.10/32 dev lo")
        assert (await look(world)).addresses[four().key] == replace(four(), proto=0)

        await done(world, ReplaceAddress(four(), Why.UNMARKED))

        assert (await look(world)).addresses[four().key] == four()


async def test_an_address_on_a_device_that_is_not_there(world: World) -> None:
    """Adding waits for the device; deleting has nothing to do."""
    async with world:
        await look(world)

        error = await refused(world, AddAddress(four(link="bond0"), Why.MISSING))

        assert (type(error), error.problem) == (NotYet, "there is no device bond0")
        await done(world, DeleteAddress(four(link="bond0"), Why.UNWANTED))


async def test_an_ipv6_address_with_another_prefix_length_is_another_key_in_the_same_place(world: World) -> None:
    """The kernel has one address per link and number: adding ours changes nothing of theirs."""
    async with world:
        world.sh("ip addr add 2001:db8::10/64 dev lo")

        await world.kernel.apply([AddAddress(six(), Why.MISSING)])

        found = (await look(world)).addresses
        assert six().key not in found
        assert found[AddressKey("lo", six().ip, 64)].proto == 0


async def test_an_ipv6_address_where_ipv6_is_switched_off(world: World) -> None:
    """The kernel says "permission denied"; what it means is something else."""
    async with world:
        await look(world)
        world.sh("sysctl -w net/ipv6/conf/lo/disable_ipv6=1")

        error = await refused(world, AddAddress(six(), Why.MISSING))

        assert type(error) is Unsupported
        assert error.problem == "cannot add 2001:db8::10/128 on lo: IPv6 is switched off on lo"


async def test_one_failure_does_not_stop_the_rest(world: World) -> None:
    """Three of five are done, and each outcome is about its own step, in order."""
    async with world:
        await look(world)
        wanted = [four("192.0.2.1"), four("192.0.2.2", "bond0"), four("192.0.2.3"), four("192.0.2.4", "bond1"), six()]

        outcomes: Sequence[Outcome] = await world.kernel.apply([AddAddress(vip, Why.MISSING) for vip in wanted])

        assert [outcome.action.key for outcome in outcomes] == [vip.key for vip in wanted]
        assert [str(outcome.result) for outcome in outcomes] == ["done", "failed", "done", "failed", "done"]
        found = (await look(world)).addresses
        assert {vip.key for vip in wanted if vip.link == "lo"} <= set(found)


async def test_lo_going_down_takes_the_ipv6_addresses_and_leaves_the_ipv4_ones(world: World) -> None:
    """For good: they do not come back when it comes up."""
    async with world:
        await done(world, AddAddress(four(), Why.MISSING), AddAddress(six(), Why.MISSING))

        world.sh("ip link set lo down")
        await done(world, BringUp("lo", Why.DOWN))

        found = await look(world)
        assert found.links["lo"].up
        assert four().key in found.addresses
        assert six().key not in found.addresses


# --- links --------------------------------------------------------------------------------------------------------

TUNNELS = [
    tunnel("dsr0", "ipip"),
    tunnel("dsr0", "gre"),
    tunnel("dsr0", "gre", 7),
    tunnel("dsr0", "gre", 0xFFFFFFFF, checksum=True),
    tunnel("dsr0", "gre", checksum=True),
]


@pytest.mark.parametrize("link", TUNNELS, ids=lambda link: f"{link.kind} {link.outer}")
async def test_a_new_link_is_down_and_carries_our_group_and_no_alias(world: World, link: Link) -> None:
    """The alias is taken only afterwards; the outer header is read back exactly."""
    world.needs(link.kind)
    async with world:
        await done(world, LoadModule("ipip", Why.NEEDED), AddLink(link, Why.MISSING))
        assert (await look(world, HOST)).links["dsr0"] == link

        await done(world, MarkLink("dsr0", LINK_GROUP, ALIAS, Why.NEW), BringUp("dsr0", Why.NEW))
        assert (await look(world, HOST)).links["dsr0"] == replace(link, alias=ALIAS, up=True)


async def test_a_name_that_is_taken(world: World) -> None:
    """Creating a link never touches what has its name."""
    world.needs("ipip")
    async with world:
        error = await refused(world, AddLink(tunnel(NIC, "ipip"), Why.MISSING))

        assert type(error) is Foreign
        assert (await look(world, HOST)).links[NIC].kind != "ipip"


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (tunnel("dsr0", "ipip"), tunnel("dsr1", "ipip"), True),
        (tunnel("dsr0", "ipip"), tunnel("dsr1", "ipip", local="10.0.9.9"), False),
        (tunnel("dsr0", "gre"), tunnel("dsr1", "gre", checksum=True), True),
        (tunnel("dsr0", "gre"), tunnel("dsr1", "gre", 7), False),
        (tunnel("dsr0", "gre", 7), tunnel("dsr1", "gre", 8), False),
        (tunnel("dsr0", "gre", 7), tunnel("dsr1", "gre", 7, checksum=True), True),
    ],
    ids=str,
)
async def test_two_links_cannot_wait_for_the_same_packets(world: World, one: Link, other: Link, clash: bool) -> None:
    """ipip links are keyed by local and remote, gre links by the key as well; a checksum makes no difference."""
    world.needs(one.kind)
    async with world:
        await done(world, AddLink(one, Why.MISSING))

        [outcome] = await world.kernel.apply([AddLink(other, Why.MISSING)])

        assert isinstance(outcome.error, Foreign) == clash, str(outcome)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (tunnel("dsr0", "ipip"), tunnel("dsr0", "ipip", local="10.0.9.9")),
        (tunnel("dsr0", "gre"), tunnel("dsr0", "gre", local="10.0.9.9")),
        (tunnel("dsr0", "gre"), tunnel("dsr0", "gre", 7)),
        (tunnel("dsr0", "gre", 7), tunnel("dsr0", "gre", 8)),
        (tunnel("dsr0", "gre", 7), tunnel("dsr0", "gre")),
        (tunnel("dsr0", "gre"), tunnel("dsr0", "gre", checksum=True)),
        (tunnel("dsr0", "gre", 7, checksum=True), tunnel("dsr0", "gre")),
    ],
    ids=lambda link: f"{link.kind} {link.outer}",
)
async def test_a_link_is_changed_in_place(world: World, before: Link, after: Link) -> None:
    """The same link: up, group, alias, address and sysctls stay."""
    world.needs(before.kind)
    async with world:
        await done(world, AddLink(before, Why.MISSING))
        await done(world, MarkLink("dsr0", LINK_GROUP, ALIAS, Why.NEW), BringUp("dsr0", Why.NEW))
        await done(world, AddAddress(four("192.0.0.8", "dsr0"), Why.NEW))
        await done(world, WriteSysctl(Sysctl("net/ipv4/conf/dsr0/rp_filter", 2), "dsr0", Why.NEW))

        await done(world, ChangeLink(after, Why.CHANGED))

        found = await look(world)
        assert found.links["dsr0"] == replace(after, alias=ALIAS, up=True)
        assert four("192.0.0.8", "dsr0").key in found.addresses
        assert found.sysctls[SysctlKey("net/ipv4/conf/dsr0/rp_filter")] == 2


@pytest.mark.parametrize("kind", ["ipip", "gre"])
async def test_remote_any_does_not_become_one(world: World, kind: str) -> None:
    """Nor the other way round: such a link needs a successor."""
    world.needs(kind)
    async with world:
        link = tunnel("dsr0", kind)
        assert link.outer is not None
        one = replace(link, outer=replace(link.outer, remote=IPv4Address("10.1.0.5")))
        await done(world, AddLink(link, Why.MISSING))
        await refused(world, ChangeLink(one, Why.CHANGED))
        await done(world, DeleteLink("dsr0", Why.REPLACED), AddLink(one, Why.MISSING))
        await refused(world, ChangeLink(link, Why.CHANGED))

        assert (await look(world, HOST)).links["dsr0"] == one


async def test_a_mode_does_not_change_although_the_kernel_says_so(world: World) -> None:
    """It answers success, and nothing has changed: only read-back tells."""
    world.needs("ipip")
    async with world:
        link = tunnel("dsr0", "ipip")
        assert link.outer is not None
        any_mode = replace(link, outer=replace(link.outer, protocol=0))
        await done(world, AddLink(any_mode, Why.MISSING), ChangeLink(link, Why.CHANGED))

        assert (await look(world, HOST)).links["dsr0"] == any_mode


@pytest.mark.parametrize("kind", ["ipip", "gre"])
async def test_a_link_is_renamed_while_it_is_up(world: World, kind: str) -> None:
    """Address and sysctls go with it; nothing is down for a moment."""
    world.needs(kind)
    async with world:
        await done(world, AddLink(tunnel("dsr0", kind), Why.MISSING), BringUp("dsr0", Why.NEW))
        await done(world, AddAddress(four("192.0.0.8", "dsr0"), Why.NEW))
        await done(world, WriteSysctl(Sysctl("net/ipv4/conf/dsr0/rp_filter", 2), "dsr0", Why.NEW))

        await done(world, RenameLink("dsr0", "dsr1", Why.MISNAMED))

        for scope in (HOST, EVERYTHING):
            found = await look(world, scope)
            assert "dsr0" not in found.links
            assert found.links["dsr1"] == replace(tunnel("dsr1", kind), up=True)
            assert found.addresses[four("192.0.0.8", "dsr1").key].proto == ADDRESS_PROTO
            assert four("192.0.0.8", "dsr0").key not in found.addresses
            assert found.sysctls[SysctlKey("net/ipv4/conf/dsr1/rp_filter")] == 2


@pytest.mark.parametrize("kind", ["ipip", "gre"])
async def test_a_deleted_link_takes_everything_with_it(world: World, kind: str) -> None:
    """Its addresses and its sysctls; and what is gone already is deleted with success."""
    world.needs(kind)
    async with world:
        await done(world, AddLink(tunnel("dsr0", kind), Why.MISSING))
        await done(world, AddAddress(four("192.0.0.8", "dsr0"), Why.NEW))

        await done(world, DeleteLink("dsr0", Why.UNWANTED), DeleteLink("dsr0", Why.UNWANTED))

        for scope in (HOST, EVERYTHING):
            found = await look(world, scope)
            assert "dsr0" not in found.links
            assert four("192.0.0.8", "dsr0").key not in found.addresses
            assert not [key for key in found.sysctls if "/dsr0/" in key.path]


async def test_deleting_a_link_that_never_was_is_success(world: World) -> None:
    """Gone already."""
    async with world:
        await done(world, DeleteLink("dsr7", Why.UNWANTED))


@pytest.mark.parametrize(
    "action",
    [
        BringUp("dsr7", Why.DOWN),
        MarkLink("dsr7", LINK_GROUP, ALIAS, Why.UNMARKED),
        RenameLink("dsr7", "dsr8", Why.MISNAMED),
        ChangeLink(tunnel("dsr7", "ipip"), Why.CHANGED),
    ],
    ids=lambda action: type(action).__name__,
)
async def test_a_link_that_is_not_there_cannot_be_changed(world: World, action: Action) -> None:
    """It may come: the next look tells."""
    async with world:
        error = await refused(world, action)

        assert type(error) is NotYet
        assert error.problem == f"cannot {action}: it is not there (any more)"


async def test_a_link_of_somebody_else_is_marked_in_place(world: World) -> None:
    """Adoption: group and alias, nothing else."""
    world.needs("ipip")
    async with world:
        world.sh("ip link add tun0 type ipip local 10.0.3.2", "ip link set tun0 up")
        before = (await look(world, HOST)).links["tun0"]
        assert (before.group, before.alias) == (0, "")

        await done(world, MarkLink("tun0", LINK_GROUP, ALIAS, Why.ADOPTED))

        assert (await look(world, HOST)).links["tun0"] == replace(before, group=LINK_GROUP, alias=ALIAS)


# --- sysctls ------------------------------------------------------------------------------------------------------


async def test_a_sysctl_is_written_and_read_back(world: World) -> None:
    """The value of a link."""
    path = f"net/ipv4/conf/{NIC}/arp_ignore"
    async with world:
        await done(world, WriteSysctl(Sysctl(path, 1), NIC, Why.CHANGED))

        assert (await look(world, HOST)).sysctls[SysctlKey(path)] == 1


async def test_a_sysctl_that_does_not_exist_is_not_wanted(world: World) -> None:
    """The link is gone, or has no IPv6: nothing to be done."""
    async with world:
        await done(world, WriteSysctl(Sysctl("net/ipv4/conf/dsr7/rp_filter", 2), "dsr7", Why.CHANGED))


# --- announcements ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vip", [four(), six()], ids=["IPv4", "IPv6"])
async def test_a_deleted_address_is_announced_with_whoever_did_it(world: World, vip: Address) -> None:
    """The copy of all addresses follows without another read."""
    async with world:
        await look(world)
        await done(world, AddAddress(vip, Why.MISSING))
        world.sh(f"ip addr del {vip.ip}/{vip.prefixlen} dev lo")

        changes = await heard(world, vip.key)

        assert changes.by[vip.key] > 0
        assert not changes.lost
        assert vip.key not in (await look(world, Scope(addresses=frozenset({vip.key})))).addresses


async def test_what_we_did_ourselves_to_addresses_is_not_announced_to_us(world: World) -> None:
    """Otherwise every repair would be the reason for the next look."""
    async with world:
        await look(world)
        await done(world, AddAddress(four(), Why.MISSING), AddAddress(six(), Why.MISSING))
        await done(world, DeleteAddress(four(), Why.UNWANTED))
        world.sh("ip addr add 198.51.100.9/32 dev lo")

        changes = await heard(world, four("198.51.100.9").key)

        assert four().key not in changes.keys
        assert six().key not in changes.keys


@pytest.mark.parametrize(
    ("commands", "key"),
    [
        (["ip link set lo down"], LinkKey("lo")),
        (["ip addr add 10.0.3.99/24 dev nic"], AddressKey("nic", ip_address("10.0.3.99"), 24)),
        (["sysctl -w net/ipv4/conf/nic/rp_filter=1"], SysctlKey("net/ipv4/conf/nic")),
        (["sysctl -w net/ipv4/conf/all/rp_filter=2"], SysctlKey("net/ipv4/conf/all")),
        (["sysctl -w net/ipv4/conf/nic/forwarding=1"], SysctlKey("net/ipv4/conf/nic")),
        (["sysctl -w net/ipv6/conf/nic/forwarding=1"], SysctlKey("net/ipv4/conf/nic")),
    ],
    ids=str,
)
async def test_what_the_kernel_announces(world: World, commands: list[str], key: Key) -> None:
    """Links, addresses, reverse path and forwarding."""
    async with world:
        await look(world)
        world.sh(*commands)

        await heard(world, key)


async def test_routes_are_announced(world: World) -> None:
    """They decide about a ``local = "auto"``."""
    async with world:
        await look(world)
        world.reach("10.1.0.5", str(HERE))

        await heard(world, ROUTES)


async def test_the_arp_sysctls_are_not_announced(world: World) -> None:
    """That is why they are polled."""
    async with world:
        await look(world)
        world.sh("sysctl -w net/ipv4/conf/nic/arp_ignore=1", "sysctl -w net/ipv4/conf/nic/arp_announce=2")
        world.sh("ip addr add 198.51.100.9/32 dev lo")

        changes = await heard(world, four("198.51.100.9").key)

        assert SysctlKey("net/ipv4/conf/nic") not in changes.keys


async def test_waiting_for_changes_can_be_given_up_without_losing_any(world: World) -> None:
    """Cancelling it loses nothing."""
    async with world:
        await look(world)
        waiting = asyncio.create_task(world.kernel.changes())
        await asyncio.sleep(0)
        waiting.cancel()
        world.sh("ip addr add 198.51.100.9/32 dev lo")

        await heard(world, four("198.51.100.9").key)


async def test_a_link_that_somebody_deletes_is_announced_and_its_addresses_are_gone(world: World) -> None:
    """Also for a look that reads nothing afresh."""
    world.needs("ipip")
    async with world:
        await done(world, AddLink(tunnel("dsr0", "ipip"), Why.MISSING), BringUp("dsr0", Why.NEW))
        address = four("192.0.0.8", "dsr0")
        await done(world, AddAddress(address, Why.NEW))
        await look(world)
        world.sh("ip link del dsr0")

        await heard(world, LinkKey("dsr0"))

        assert address.key not in (await look(world, Scope(addresses=frozenset({address.key})))).addresses


async def test_a_change_of_a_link_that_is_down_is_not_announced(world: World) -> None:
    """Its local address changes without a word: that is why links are polled."""
    world.needs("ipip")
    async with world:
        await done(world, AddLink(tunnel("dsr0", "ipip"), Why.MISSING))
        await heard(world, LinkKey("dsr0"))
        world.sh("ip link change dsr0 type ipip local 10.0.9.9 mode ipip", "ip addr add 198.51.100.9/32 dev lo")

        changes = await heard(world, four("198.51.100.9").key)

        assert LinkKey("dsr0") not in changes.keys
        found = (await look(world, HOST)).links["dsr0"].outer
        assert found is not None
        assert str(found.local) == "10.0.9.9"
