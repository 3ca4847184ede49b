"""The UDP ports at which packets are taken out of UDP (see `world`)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from dsr_agent.state.actions import LoadModule
from dsr_agent.state.errors import Foreign
from dsr_agent.state.model import HOST
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.ports import PortKey, UdpPort
from dsr_agent.state.why import Why
from tests.fake.contract.world import World, done, heard_a_marker, look, refused

HERE = PortKey(6080, 4, IPv4Address("10.0.3.2"))
HERE6 = PortKey(6080, 6, IPv6Address("::1"))
FOU = LoadModule("fou", Why.NEEDED)  # which no request for a port brings


@pytest.mark.parametrize("key", [HERE, HERE6], ids=str)
async def test_a_port_comes_with_our_mark_and_goes(world: World, key: PortKey) -> None:
    """And what is so already is done with success."""
    world.needs("sit")
    async with world:
        await done(world, FOU, AddPort(key), AddPort(key))
        assert (await look(world, HOST)).ports == {UdpPort(key)}

        await done(world, DeletePort(key), DeletePort(key))
        assert (await look(world, HOST)).ports == frozenset()


async def test_a_port_over_ipv6_is_another_one(world: World) -> None:
    """The same number."""
    world.needs("sit")
    async with world:
        await done(world, FOU, AddPort(HERE), AddPort(HERE6))
        assert (await look(world, HOST)).ports == {UdpPort(HERE), UdpPort(HERE6)}

        await done(world, DeletePort(HERE))
        assert (await look(world, HOST)).ports == {UdpPort(HERE6)}


async def test_a_port_that_somebody_opened_by_hand_is_not_ours(world: World) -> None:
    """One for GUE does the work for every address; one for one protocol is in the way."""
    world.needs("sit")
    async with world:
        await done(world, FOU)
        world.sh("ip fou add port 6080 gue", "ip fou add port 5555 ipproto 4")
        anywhere = UdpPort(PortKey(6080, 4), ours=False)
        odd = UdpPort(PortKey(5555, 4), gue=False, protocol=4, ours=False)
        assert (await look(world, HOST)).ports == {anywhere, odd}

        await done(world, AddPort(HERE))
        assert (await look(world, HOST)).ports == {anywhere, odd}
        assert type(await refused(world, AddPort(PortKey(5555, 4, HERE.local)))) is Foreign


async def test_nobody_tells_that_a_port_is_gone(world: World) -> None:
    """So it is polled."""
    world.needs("sit")
    async with world:
        await done(world, FOU, AddPort(HERE))
        await heard_a_marker(world)
        world.sh("ip fou del port 6080 local 10.0.3.2")

        assert HERE not in (await heard_a_marker(world)).keys
        assert (await look(world, HOST)).ports == frozenset()
