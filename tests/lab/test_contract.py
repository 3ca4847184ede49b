"""The real kernel keeps the promises of the port; here every kind of link is there, and nothing is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake.contract.announcements import *  # noqa: F403
from tests.fake.contract.links import *  # noqa: F403
from tests.fake.contract.looking import *  # noqa: F403
from tests.fake.contract.ports import *  # noqa: F403
from tests.fake.contract.vrfs import *  # noqa: F403
from tests.netns.space import RealWorld, namespace


@pytest.fixture
def world() -> Iterator[RealWorld]:
    """The lab machine's kernel, in a namespace of its own."""
    with namespace():
        yield RealWorld(strict=True)
