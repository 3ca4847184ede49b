"""Making, changing and removing links (see `world`)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteLink,
    LoadModule,
    MarkLink,
    RenameLink,
    WriteSysctl,
)
from dsr_agent.state.errors import Foreign, NotYet
from dsr_agent.state.marks import ADDRESS_PROTO, ALIAS, LINK_GROUP
from dsr_agent.state.model import (
    EVERYTHING,
    HOST,
    Link,
    Sysctl,
    SysctlKey,
)
from dsr_agent.state.why import Why
from tests.fake.contract.world import NIC, World, done, four, look, refused, tunnel

TUNNELS = [
    tunnel("dsr0", "sit"),
    tunnel("dsr0", "ip6tnl"),
    tunnel("dsr0", "ip6gre"),
    tunnel("dsr0", "ip6gre", 7, checksum=True),
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
        (tunnel("dsr0", "sit"), tunnel("dsr1", "sit"), True),
        (tunnel("dsr0", "ipip"), tunnel("dsr1", "sit"), False),
        (tunnel("dsr0", "ip6tnl"), tunnel("dsr1", "ip6tnl"), True),
        (tunnel("dsr0", "ip6tnl"), tunnel("dsr1", "ip6gre"), False),
        (tunnel("dsr0", "ip6gre"), tunnel("dsr1", "ip6gre", checksum=True), True),
        (tunnel("dsr0", "ip6gre", 7), tunnel("dsr1", "ip6gre", 8), False),
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
        (tunnel("dsr0", "sit"), tunnel("dsr0", "sit", local="10.0.9.9")),
        (tunnel("dsr0", "ip6tnl"), tunnel("dsr0", "ip6tnl", local="2001:db8:9::9")),
        (tunnel("dsr0", "ip6gre"), tunnel("dsr0", "ip6gre", 7, checksum=True)),
        (tunnel("dsr0", "ip6gre", 7), tunnel("dsr0", "ip6gre", local="2001:db8:9::9")),
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
