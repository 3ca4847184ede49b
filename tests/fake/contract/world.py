"""
What `dsr_agent.kernel.port.Kernel` promises, as tests that know nothing of what is behind it: a world and its verbs.

``tests/fake/test_fake_contract.py`` runs `looking`, `links`, `ports` and `announcements` over the `FakeKernel`,
``tests/netns/test_netns_contract.py`` over the real one of this machine (skipping kinds of links that it lacks, by
name), and ``tests/lab/test_contract.py`` over the real one of a machine of the lab, where every kind is there and
nothing may be skipped. Whoever runs them brings a fixture *world*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from typing import Protocol, Self

from dsr_agent.kernel.port import Kernel
from dsr_agent.state.actions import (
    Action,
)
from dsr_agent.state.errors import DsrError
from dsr_agent.state.local import Towards
from dsr_agent.state.marks import ADDRESS_PROTO, LINK_GROUP
from dsr_agent.state.model import (
    EVERYTHING,
    Address,
    Changes,
    Key,
    Link,
    Observed,
    Outer,
    Scope,
)
from dsr_agent.state.report import Result

HERE = IPv4Address("10.0.3.2")
NIC = "nic"


class World(Protocol):
    """
    A host with ``lo`` up and a network card ``nic`` with 10.0.3.2/24 up, and nothing of ours.

    Entered with ``async with``; it has been looked at once by then, because nothing is done before the first look.
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


def tunnel(name: str, kind: str, key: int | None = None, *, local: str = "", checksum: bool = False) -> Link:
    """A tunnel link of ours."""
    local = local or ("2001:db8:3::2" if kind.startswith("ip6") else "10.0.3.2")
    outer = Outer(local=ip_address(local), key=key, checksum=checksum, protocol=4 if kind == "ipip" else 0)
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
    return await world.kernel.observe(scope, [Towards(ip_address(target)) for target in targets])


async def heard(world: World, *keys: Key) -> Changes:
    """Everything that is announced until all of *keys* have been."""
    found = Changes()
    while not set(keys) <= found.keys:
        more = await asyncio.wait_for(world.kernel.changes(), 30)
        found = Changes(found.keys | more.keys, {**found.by, **more.by}, found.lost or more.lost)
    return found


async def heard_a_marker(world: World) -> Changes:
    """Everything that is announced up to something that somebody does now."""
    world.sh("ip addr add 198.51.100.9/32 dev lo")
    changes = await heard(world, four("198.51.100.9").key)
    world.sh("ip addr del 198.51.100.9/32 dev lo")
    await heard(world, four("198.51.100.9").key)
    return changes
