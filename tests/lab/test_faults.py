"""
Every fault of the table, under traffic: what a balancer is told, what the doctor says, and that both get over it.

What `/readyz` cannot know and what the doctor gets wrong stays in the table as such.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab.agent import has_inet_tables, wait_for
from tests.lab.fault_parts import RUNNING, Fault
from tests.lab.fault_world import FaultWorld
from tests.lab.faults import FAULTS
from tests.lab.ledger import Ledger, duration
from tests.lab.marks import MOSTLY_FAST

pytestmark = pytest.mark.skipif(os.environ.get("DSR_LAB") == "here", reason="the modules here are the host's own")


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def scene() -> Iterator[FaultWorld]:
    with FaultWorld() as found:
        yield found


class Table:
    """A row for each fault, printed at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str, str]] = []
        self.fell: list[float] = []

    def lines(self) -> Iterator[str]:
        """The table."""
        head = ("fault", "/readyz 503 after", "the doctor says", "well again after", "as it should be")
        yield "{:<58} {:<18} {:<24} {:<17} {}".format(*head)
        for row in self.rows:
            yield "{:<58} {:<18} {:<24} {:<17} {}".format(*row)
        soon = sum(seconds <= 2 for seconds in self.fell)
        yield f"/readyz: {soon} of {len(self.fell)} within 2 s, all within {max(self.fell, default=0):.1f} s"
        yield f"the doctor: {sum(row[4] == 'yes' for row in self.rows)} of {len(self.rows)} faults named rightly"


@pytest.fixture(scope="module")
def table(ledger: Ledger) -> Iterator[Table]:
    found = Table()
    yield found
    if found.rows:
        ledger.notes += found.lines()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_it_is_told_named_and_got_over(fault: Fault, scene: FaultWorld, table: Table) -> None:
    if fault.nftables and not has_inet_tables():
        pytest.skip("this kernel has no nftables family inet")
    scene.have_agent(fault.agent)
    scene.flowing()
    mark, injected = scene.agent.mark(), time.monotonic()
    try:
        fault.inject(scene)
        scene.watch.until(fault.unready, False, "503")
        words = scene.watch.words
        wait_for(lambda: all(fault.says in words[vip] for vip in fault.unready), f"it to be told: {fault.says}")
        if fault.fresh:  # until it is known to be fought over, it is just put back, and soon all is well
            wait_for(lambda: "somebody keeps undoing it" in scene.agent.said(mark), "it is a fight")
        told = time.monotonic()
        causes = scene.doctor()
        cut = scene.cut(told, time.monotonic() - 0.3)
        unready = scene.watch.unready(injected)
    finally:
        undone = time.monotonic()
        (fault.undo or FaultWorld.apply)(scene)
    scene.well()
    again = time.monotonic() - undone
    if fault.fresh:
        scene.have_agent(RUNNING, fresh=True)
    first = causes[0]["cause"] if causes else "nothing"
    right = first in fault.causes.split()
    row = [str(fault.name), "-", first, duration(again), "yes" if right else f"no: {fault.known}"]
    if fault.agent == RUNNING:
        row[1] = "stays 200"
        if unready:
            row[1] = duration(max(unready.values()))
            table.fell.append(max(unready.values()))
        assert set(unready) == set(fault.unready), {address: scene.watch.words[address] for address in unready}
    else:
        row[1] = "agent stopped"
    table.rows.append((row[0], row[1], row[2], row[3], row[4]))
    if fault.fresh:  # while it is fought over, answers come and go
        assert cut <= set(fault.broken), "whose clients get no answer"
    else:
        assert cut == set(fault.broken), "whose clients get no answer"
    if fault.known:
        assert not right, "the doctor names it rightly by now: it is not known to be wrong any more"
    else:
        assert right, causes
