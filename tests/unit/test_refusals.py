"""What an errno of the kernel means, and whose move it is."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.kernel.refusals import explain
from dsr_agent.state.errors import (
    Bug,
    ConfigError,
    DsrError,
    Foreign,
    NotPermitted,
    NotYet,
    Transient,
    Undecided,
    Unsupported,
)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EPERM, NotPermitted),
        (errno.EACCES, NotPermitted),
        (errno.EROFS, NotPermitted),
        (errno.EEXIST, Foreign),
        (errno.ENODEV, NotYet),
        (errno.ENOENT, NotYet),
        (errno.EOPNOTSUPP, Unsupported),
        (errno.ENOBUFS, Transient),
        (errno.ENOMEM, Transient),
        (errno.EBUSY, Transient),
        (errno.EINTR, Transient),
        (errno.EINVAL, Bug),
        (0, Bug),
    ],
)
def test_each_errno_is_somebodys_move(code: int, kind: type[DsrError]) -> None:
    """One table; nothing above sees an errno."""
    assert type(explain(code, "cannot do it")) is kind


@pytest.mark.parametrize(
    ("kind", "move"),
    [
        (Foreign, "operator"),
        (Undecided, "operator"),
        (NotPermitted, "operator"),
        (Unsupported, "host"),
        (NotYet, "host"),
        (Transient, "retry"),
        (Bug, "bug"),
    ],
)
def test_whose_move_it_is(kind: type[DsrError], move: str) -> None:
    """As JSON says it."""
    assert kind("x").move == move
    assert ConfigError(("a", "b")).move == "operator"


def test_the_kernels_own_words_are_passed_on() -> None:
    """Where it has any."""
    assert "Attribute failed policy" in str(explain(errno.EINVAL, "cannot add it", "Attribute failed policy"))


@given(st.integers(0, 200), st.text(max_size=20))
def test_every_refusal_begins_with_what_was_being_done(code: int, text: str) -> None:
    """Whatever the errno."""
    assert explain(code, "cannot add 192.0.2.10/32 on lo", text).problem.startswith("cannot add 192.0.2.10/32 on lo: ")


def test_errors_are_values() -> None:
    """Equal when they say the same; problem and remedy make one sentence."""
    assert NotYet("a", "b") == NotYet("a", "b")
    assert NotYet("a", "b") != Foreign("a", "b")
    assert len({NotYet("a"), NotYet("a")}) == 1
    assert (str(NotYet("a", "b")), str(NotYet("a"))) == ("a: b", "a")
