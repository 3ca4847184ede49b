"""The `FakeKernel` keeps the promises of the port, so the stories told over it could happen (see `contract.world`)."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest

from tests.fake.contract.announcements import *  # noqa: F403
from tests.fake.contract.links import *  # noqa: F403
from tests.fake.contract.looking import *  # noqa: F403
from tests.fake.contract.ports import *  # noqa: F403
from tests.fake.contract.vrfs import *  # noqa: F403
from tests.fake.kernel import FakeKernel


class FakeWorld:
    """See `contract.world.World`."""

    def __init__(self) -> None:
        self.kernel = FakeKernel("lo up\nnic arp up\n  10.0.3.2/24")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.sleep(0)

    def needs(self, kind: str) -> None:
        """All kinds are there."""

    def sh(self, *commands: str) -> None:
        """Somebody else, whose netlink port is 4242."""
        self.kernel.meddle(*commands, by=4242)

    def reach(self, target: str, source: str) -> None:
        """A route."""
        self.kernel.reach(target, source)


@pytest.fixture
def world() -> FakeWorld:
    """A host of Python."""
    return FakeWorld()
