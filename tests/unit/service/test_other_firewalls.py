"""Packets are followed in a thread, which nobody has to wait for."""

from __future__ import annotations

import asyncio
import select
import threading

import pytest

from dsr_agent.kernel.trace import ForeignDrop, Requests
from dsr_agent.service import other_firewalls


async def test_who_stops_the_agent_need_not_wait_until_enough_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, told = threading.Event(), list[bool]()

    def follow(seconds: float, sought: Requests, *, ended: int) -> tuple[int, list[ForeignDrop]]:
        begun.set()
        told.append(bool(select.select([ended], [], [], 30)[0]))
        return 0, []

    monkeypatch.setattr(other_firewalls, "foreign_drops", follow)
    watching = asyncio.create_task(other_firewalls._follow(Requests()))
    await asyncio.to_thread(begun.wait)

    watching.cancel()

    with pytest.raises(asyncio.CancelledError):
        await watching
    assert told == [True]
