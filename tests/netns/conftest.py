"""Every test in here has a network namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.space import namespace


@pytest.fixture(autouse=True)
def space() -> Iterator[None]:
    """A fresh namespace, ``lo`` up and nothing else."""
    with namespace():
        yield
