"""Reading back, and writing addresses and sysctls (see `world`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from dsr_agent.state.actions import (
    AddAddress,
    BringUp,
    DeleteAddress,
    ReplaceAddress,
    WriteSysctl,
)
from dsr_agent.state.errors import Foreign, NotYet, Unsupported
from dsr_agent.state.local import Towards
from dsr_agent.state.model import (
    EVERYTHING,
    HOST,
    Address,
    AddressKey,
    Scope,
    Sysctl,
    SysctlKey,
)
from dsr_agent.state.report import Outcome
from dsr_agent.state.why import Why
from tests.fake.contract.world import HERE, NIC, World, done, four, look, refused, six


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
        found = await look(world, Scope(addresses=frozenset({four().key})))

        assert (found.links, found.sysctls, found.sources, found.modules) == ({}, {}, {}, frozenset())


async def test_the_source_towards_a_target(world: World) -> None:
    """The address this host would use; a target without a route is not in it."""
    async with world:
        world.reach("10.1.0.5", str(HERE))

        found = await look(world, HOST, ["10.1.0.5", "10.77.0.5"])

        assert found.sources == {Towards(IPv4Address("10.1.0.5")): HERE}


async def test_sysctls_of_what_answers_arp_and_has_an_address(world: World) -> None:
    """Its own and those of ``all``; nothing of ``lo``."""
    async with world:
        found = (await look(world)).sysctls

        assert found[SysctlKey(f"net/ipv4/conf/{NIC}/arp_ignore")] == 0
        assert SysctlKey("net/ipv4/conf/all/rp_filter") in found
        assert SysctlKey("net/ipv6/conf/all/forwarding") in found
        assert not [key for key in found if "/lo/" in key.path]


# --- addresses ---
@pytest.mark.parametrize("vip", [four(), six()], ids=["IPv4", "IPv6"])
async def test_an_added_address_is_there_exactly_as_wanted(world: World, vip: Address) -> None:
    """Mark, label, scope and lifetimes; seen by a full look and by one at this address alone."""
    async with world:
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
        error = await refused(world, AddAddress(four(link="bond0"), Why.MISSING))

        assert (type(error), error.problem) == (NotYet, "there is no device bond0")
        await done(world, DeleteAddress(four(link="bond0"), Why.UNWANTED))


async def test_an_ipv6_address_with_another_prefix_length_is_another_key_in_the_same_place(world: World) -> None:
    """The kernel has one address per link and number: adding ours changes nothing of theirs."""
    async with world:
        world.sh("ip addr add 2001:db8::10/64 dev lo")

        error = await refused(world, AddAddress(six(), Why.MISSING))

        assert (type(error), error.problem) == (Foreign, "2001:db8::10 is on lo with another prefix length")
        theirs = AddressKey("lo", six().ip, 64)
        for scope in (Scope(addresses=frozenset({six().key})), EVERYTHING):
            found = (await look(world, scope)).addresses
            assert six().key not in found
            assert found[theirs].proto == 0


async def test_an_ipv6_address_where_ipv6_is_switched_off(world: World) -> None:
    """The kernel says "permission denied"; what it means is something else."""
    async with world:
        world.sh("sysctl -w net/ipv6/conf/lo/disable_ipv6=1")

        error = await refused(world, AddAddress(six(), Why.MISSING))

        assert type(error) is Unsupported
        assert error.problem == "cannot add 2001:db8::10/128 on lo: IPv6 is switched off on lo"


async def test_one_failure_does_not_stop_the_rest(world: World) -> None:
    """Three of five are done, and each outcome is about its own step, in order."""
    async with world:
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


# --- sysctls ---
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
