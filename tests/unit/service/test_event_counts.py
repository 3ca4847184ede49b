"""What counts as drift, as a repair, and as neither."""

from __future__ import annotations

import pytest

from dsr_agent.service.board import Board
from dsr_agent.service.event_counts import BOUNDS, EventCounts, Histogram
from dsr_agent.service.subjects import SubjectSort
from dsr_agent.state.report import PassCause, Result
from tests.unit.service.reports import VIP1, VIP2, report


@pytest.mark.parametrize("cause", [PassCause.START, PassCause.RELOAD])
def test_what_a_file_asks_for_is_neither_drift_nor_repair(cause: PassCause) -> None:
    counts = EventCounts()
    counts.add(report(cause, found_missing=(VIP1, VIP2)))

    assert set(counts.drift.values()) == {0}
    assert set(counts.repairs.values()) == {0}
    assert sum(counts.pass_seconds[cause].counts) == 1


def test_drift_and_its_repair() -> None:
    counts = EventCounts()
    counts.add(report(found_missing=(VIP1, VIP2), seconds=0.003))

    assert counts.drift[SubjectSort.VIP] == 2
    assert counts.repairs[SubjectSort.VIP, Result.DONE] == 2
    assert sum(counts.repair_seconds.counts) == 1
    assert counts.repair_seconds.total == 0.003


def test_drift_is_counted_once_however_often_its_repair_is_tried() -> None:
    board = Board()
    for cause in (PassCause.DRIFT, PassCause.RETRY, PassCause.DRIFT):
        board.add(report(cause, found_missing=(VIP1,), result=Result.FAILED))

    assert board.counts.drift[SubjectSort.VIP] == 1
    assert board.counts.repairs[SubjectSort.VIP, Result.FAILED] == 3
    assert sum(board.counts.repair_seconds.counts) == 0, "nothing was repaired"


def test_a_histogram_holds_each_value_where_it_belongs() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], 0.002, 99.0):
        histogram = histogram.plus(seconds)

    cumulative = dict(histogram.cumulative)
    assert cumulative["0.0005"] == 2
    assert cumulative["0.001"] == 2
    assert cumulative["0.0025"] == 3
    assert cumulative["10.0"] == 3
    assert cumulative["+Inf"] == 4
