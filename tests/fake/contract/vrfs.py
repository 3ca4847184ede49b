"""Links and ports in VRFs, and routes that are asked of one (see `world`)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from dsr_agent.state.actions import AddLink, BringUp, LoadModule, MoveLink
from dsr_agent.state.errors import NotYet
from dsr_agent.state.local import Towards
from dsr_agent.state.model import HOST, Link, LinkKey
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.ports import PortKey, UdpPort
from dsr_agent.state.why import Why
from tests.fake.contract.world import World, done, heard, look, refused, tunnel

BLUE = ("ip link add blue type vrf table 100", "ip link set blue up")
IN_BLUE = PortKey(6080, 4, IPv4Address("10.0.3.2"), "blue")


def in_blue(kind: str) -> Link:
    """A tunnel link of ours in the VRF; over IPv6 it looks there for its own address, too."""
    link = tunnel("dsr0", kind)
    assert link.outer
    return replace(link, master="blue", outer=replace(link.outer, device="blue" if kind == "ip6tnl" else ""))


@pytest.mark.parametrize("kind", ["sit", "ip6tnl", "gre", "ip6gre"])
async def test_a_link_is_made_in_its_vrf(world: World, kind: str) -> None:
    world.needs(kind)
    world.needs("vrf")
    async with world:
        world.sh(*BLUE)
        await look(world, HOST)
        await done(world, AddLink(in_blue(kind), Why.MISSING))
        assert (await look(world, HOST)).links["dsr0"] == in_blue(kind)


async def test_a_link_is_taken_out_of_its_vrf_and_put_back(world: World) -> None:
    """Which is announced; it is as it was otherwise."""
    world.needs("sit")
    world.needs("vrf")
    async with world:
        world.sh(*BLUE)
        await look(world, HOST)
        await done(world, AddLink(in_blue("sit"), Why.MISSING), BringUp("dsr0", Why.NEW))
        world.sh("ip link set dsr0 nomaster")
        await heard(world, LinkKey("dsr0"))
        assert (await look(world, HOST)).links["dsr0"] == replace(in_blue("sit"), master="", up=True)

        await done(world, MoveLink("dsr0", "blue"))
        assert (await look(world, HOST)).links["dsr0"] == replace(in_blue("sit"), up=True)
        await done(world, MoveLink("dsr0", ""))
        assert (await look(world, HOST)).links["dsr0"].master == ""


async def test_a_vrf_that_is_not_there(world: World) -> None:
    """Neither links nor ports can be had in it, and what was there is let go."""
    world.needs("sit")
    world.needs("vrf")
    async with world:
        await done(world, LoadModule("fou", Why.NEEDED))
        assert type(await refused(world, AddLink(in_blue("sit"), Why.MISSING))) is NotYet
        assert type(await refused(world, AddPort(IN_BLUE))) is NotYet
        world.sh(*BLUE)
        await look(world, HOST)
        await done(world, AddLink(in_blue("sit"), Why.MISSING))
        world.sh("ip link del blue")
        assert (await look(world, HOST)).links["dsr0"].master == ""


async def test_a_port_in_a_vrf_is_another_one(world: World) -> None:
    """But for one that is open to every device."""
    world.needs("sit")
    world.needs("vrf")
    async with world:
        world.sh(*BLUE, "ip link add red type vrf table 101")
        world.sh(*(f"ip addr add 10.0.3.2/32 dev {vrf}" for vrf in ("blue", "red")))
        await look(world, HOST)
        in_red = replace(IN_BLUE, device="red")
        await done(world, LoadModule("fou", Why.NEEDED), AddPort(IN_BLUE), AddPort(in_red))
        assert (await look(world, HOST)).ports == {UdpPort(IN_BLUE), UdpPort(in_red)}
        await refused(world, AddPort(replace(IN_BLUE, device="")))

        world.sh("ip link del red")
        (gone,) = (port.key for port in (await look(world, HOST)).ports - {UdpPort(IN_BLUE)})
        await done(world, DeletePort(IN_BLUE), DeletePort(gone))
        assert (await look(world, HOST)).ports == frozenset()


async def test_the_source_towards_a_target_in_a_vrf(world: World) -> None:
    """By its routes, and by no others."""
    world.needs("vrf")
    async with world:
        world.sh(*BLUE)
        world.reach("10.1.0.5", "10.0.3.2")
        targets = [Towards(IPv4Address("10.1.0.5")), Towards(IPv4Address("10.1.0.5"), "blue")]
        found = await world.kernel.observe(HOST, [*targets, Towards(IPv4Address("10.1.0.5"), "none")])
        assert found.sources == {targets[0]: IPv4Address("10.0.3.2")}
