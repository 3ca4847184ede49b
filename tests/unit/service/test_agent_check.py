"""The words of HAProxy's agent check."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.service.web.agent_check import line


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ([], "up ready"),
        (["drained"], "up drain"),
        (["held"], "down #held"),
        (["held", "drained"], "down drain #held"),
        (["a: it is missing", "b: no"], "down #a: it is missing (and 1 more)"),
        (["drained", "a\nb\tc"], "down drain #a b c"),
    ],
)
def test_what_is_said(why: list[str], said: str) -> None:
    assert line(why) == said


@given(st.lists(st.text(min_size=1)))
def test_it_is_always_a_short_line_that_haproxy_reads(why: list[str]) -> None:
    """The sharp begins a word, and nothing of a reason is before it."""
    assert re.fullmatch(r"up (ready|drain)|down( drain)? #[ -~]{0,200}", line(why))
