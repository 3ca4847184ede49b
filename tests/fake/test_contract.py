"""The `FakeKernel` keeps the promises of the port: what stories are told over it could happen (see `contract`)."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest

pytest.register_assert_rewrite("tests.fake.contract")

from tests.fake.contract import *  # noqa: E402,F403
from tests.fake.kernel import FakeKernel  # noqa: E402


class FakeWorld:
    """See `contract.World`."""

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
