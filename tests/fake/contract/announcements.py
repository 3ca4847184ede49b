"""What the kernel announces, and what it does not (see `world`)."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from dsr_agent.state.actions import (
    AddAddress,
    AddLink,
    BringUp,
    DeleteAddress,
)
from dsr_agent.state.model import (
    HOST,
    ROUTES,
    Address,
    AddressKey,
    Key,
    LinkKey,
    Scope,
    SysctlKey,
)
from dsr_agent.state.why import Why
from tests.fake.contract.world import HERE, World, done, four, heard, heard_a_marker, look, six, tunnel


@pytest.mark.parametrize("vip", [four(), six()], ids=["IPv4", "IPv6"])
async def test_a_deleted_address_is_announced(world: World, vip: Address) -> None:
    """The copy of all addresses follows without another read."""
    async with world:
        await done(world, AddAddress(vip, Why.MISSING))
        await heard_a_marker(world)
        world.sh(f"ip addr del {vip.ip}/{vip.prefixlen} dev lo")

        changes = await heard(world, vip.key)

        assert not changes.lost
        assert vip.key not in (await look(world, Scope(addresses=frozenset({vip.key})))).addresses


async def test_who_deleted_an_ipv4_address_is_told(world: World) -> None:
    """By the netlink port; the kernel does not tell for IPv6 (nor for links and sysctls)."""
    async with world:
        await done(world, AddAddress(four(), Why.MISSING), AddAddress(six(), Why.MISSING))
        await heard_a_marker(world)
        world.sh("ip addr del 192.0.2.10/32 dev lo", "ip addr del 2001:db8::10/128 dev lo")

        changes = await heard(world, four().key, six().key)

        assert changes.by[four().key] > 0
        assert six().key not in changes.by


async def test_what_we_did_ourselves_to_ipv4_addresses_is_not_announced_to_us(world: World) -> None:
    """Otherwise ten thousand repairs would be the reason for as many looks."""
    async with world:
        await done(world, AddAddress(four(), Why.MISSING), DeleteAddress(four(), Why.UNWANTED))

        assert four().key not in (await heard_a_marker(world)).keys


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
        world.sh(*commands)

        await heard(world, key)


async def test_routes_are_announced(world: World) -> None:
    """They decide about a ``local = "auto"``."""
    async with world:
        world.reach("10.1.0.5", str(HERE))

        await heard(world, ROUTES)


async def test_the_arp_sysctls_are_not_announced(world: World) -> None:
    """That is why they are polled."""
    async with world:
        world.sh("sysctl -w net/ipv4/conf/nic/arp_ignore=1", "sysctl -w net/ipv4/conf/nic/arp_announce=2")

        changes = await heard_a_marker(world)

        assert SysctlKey("net/ipv4/conf/nic") not in changes.keys


async def test_waiting_for_changes_can_be_given_up_without_losing_any(world: World) -> None:
    """Cancelling it loses nothing."""
    async with world:
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
        await heard_a_marker(world)
        world.sh("ip link change dsr0 type ipip local 10.0.9.9 mode ipip")

        changes = await heard_a_marker(world)

        assert LinkKey("dsr0") not in changes.keys
        found = (await look(world, HOST)).links["dsr0"].outer
        assert found is not None
        assert str(found.local) == "10.0.9.9"
