"""The words of HAProxy's agent check."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.service.readiness import DRAINED, HELD, About, NotReady
from dsr_agent.service.web.agent_check import line, unknown


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ([], "up ready"),
        ([DRAINED], "up drain"),
        ([HELD], "down #held"),
        ([HELD, DRAINED], "down drain #held"),
        ([NotReady(About.VIP, "a: it is missing"), HELD], "down #vip: a: it is missing (and 1 more)"),
        ([DRAINED, NotReady(About.TUNNEL, "a\nb\tc")], "down drain #tunnel: a b c"),
    ],
)
def test_what_is_said(why: list[NotReady], said: str) -> None:
    assert line(why) == said


@given(st.lists(st.builds(NotReady, st.sampled_from(About), st.text(min_size=1))), st.text())
def test_it_is_always_a_short_line_that_haproxy_reads(why: list[NotReady], name: str) -> None:
    """The sharp begins a word, and nothing of a reason is before it."""
    for said in (line(why), unknown(name)):
        assert re.fullmatch(r"up (ready|drain)|down( drain)? #[ -~]{0,200}", said)
