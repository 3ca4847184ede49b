"""RADIUS servers are asked over real sockets: those that answer, that do not, and that do it wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dsr_agent.truth.checks import FailureReason
from tests.netns.applications import (
    HASTY,
    OWN,
    OWN6,
    PORT,
    SECRET,
    VIP,
    VIP6,
    addressed,
    asked,
    good,
    radius,
)


@pytest.fixture(autouse=True)
def addresses(space: None) -> None:
    addressed()


USER = {"request": "access-request", "user": "joe", "password": "pass"}


async def test_radius_that_answers() -> None:
    async with radius(good) as server:
        assert (await asked("radius")).reason is None
        assert (await asked("radius", **USER)).reason is None
        rejected = await asked("radius", **{**USER, "password": "wrong"})
        assert (rejected.reason, rejected.text) == (FailureReason.REJECTED, "rejects user joe, expected was accept")
        assert (await asked("radius", **{**USER, "password": "wrong", "expect": "reject"})).reason is None
    assert set(server.peers) == {OWN}, "it is asked from the host's own address"


async def test_radius_that_listens_on_every_address_answers_from_a_wrong_one() -> None:
    async with radius(good, "0.0.0.0"):
        found = await asked("radius")
    assert (found.reason, found.text) == (FailureReason.WRONG_SOURCE, f"answers from {OWN} instead of the VIP")


async def test_why_it_is_not_asked_from_the_vip() -> None:
    """The fault would not be seen: the kernel answers from where it was asked."""
    async with radius(good, "0.0.0.0"):
        assert (await asked("radius", source=VIP)).reason is None
        assert (await asked("radius", source="127.0.0.1")).reason is FailureReason.WRONG_SOURCE


async def test_radius_over_ipv6() -> None:
    async with radius(good, VIP6):
        assert (await asked("radius", VIP6, OWN6)).reason is None
    async with radius(good, "::"):
        assert (await asked("radius", VIP6, OWN6)).reason is FailureReason.WRONG_SOURCE
    assert (await asked("radius", VIP6, OWN6)).reason is FailureReason.REFUSED


async def test_radius_that_is_silent() -> None:
    async with radius(lambda data: []):
        found = await asked("radius", timeout=HASTY)
    assert (found.reason, found.text) == (FailureReason.TIMEOUT, f"no answer from {VIP}:{PORT} within 0.3 s")
    assert f"does not know {OWN} as a client" in found.hint


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda data: [b"garbage"], "what is no RADIUS"),
        (lambda data: [data], "wrong authenticator"),
        (lambda data: [good(data)[0][:-1]], "what is no RADIUS"),
        (lambda data: [bytes([2, data[1], 0, 20]) + bytes(16)], "wrong authenticator"),
    ],
)
async def test_radius_that_answers_nonsense(answer: Callable[[bytes], list[bytes]], text: str) -> None:
    """So often that nothing better is waited for."""
    async with radius(lambda data: answer(data) * 100):
        found = await asked("radius")
    assert found.reason is FailureReason.BAD_ANSWER
    assert text in found.text


async def test_nonsense_before_the_answer_is_left_aside_and_too_much_of_it_ends_it() -> None:
    async with radius(lambda data: [b"garbage", *good(data)]):
        assert (await asked("radius")).reason is None
    async with radius(lambda data: [b"garbage"] * 200):
        assert (await asked("radius")).reason is FailureReason.BAD_ANSWER
    async with radius(lambda data: [b"garbage"]):
        assert (await asked("radius", timeout=3.0)).reason is FailureReason.BAD_ANSWER, "nothing better came in time"


async def test_nobody_there_is_heard_at_once() -> None:
    assert (await asked("radius")).reason is FailureReason.REFUSED


@pytest.mark.parametrize(("protocol", "service"), [("radius", "udp/1812"), ("tacacs", "tcp/49"), ("http", "tcp/80")])
async def test_from_an_address_of_the_other_version_of_ip_nobody_can_be_asked(protocol: str, service: str) -> None:
    assert (await asked(protocol, source="2001:db8:1::1", service=service)).reason is FailureReason.ERROR


async def test_what_cannot_be_asked(tmp_path: Path) -> None:
    """It says nothing about the application, and shows nothing."""
    for keys in ({"source": "203.0.113.1"}, {"secret": None, "secret_file": str(tmp_path / "none")}):
        found = await asked("radius", **keys)
        assert found.reason is FailureReason.ERROR
        assert found.good is None
        assert SECRET not in found.text
