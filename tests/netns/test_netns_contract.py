"""The real kernel of this machine keeps the promises of the port, as far as it has the links (see `contract.world`)."""

from __future__ import annotations

import pytest

from tests.fake.contract.announcements import *  # noqa: F403
from tests.fake.contract.links import *  # noqa: F403
from tests.fake.contract.looking import *  # noqa: F403
from tests.fake.contract.ports import *  # noqa: F403
from tests.fake.contract.vrfs import *  # noqa: F403
from tests.netns.space import RealWorld


@pytest.fixture
def world(space: None) -> RealWorld:
    """This machine's kernel, in a namespace of its own."""
    return RealWorld(strict=False)
