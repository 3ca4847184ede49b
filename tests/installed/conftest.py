"""The package under test, installed on this machine; what is in this folder runs inside a machine of the lab."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.ledger import Ledger

HERE = Path(__file__).parent
_LEDGER = Ledger()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Outside a machine nothing here can run: say so instead of failing half way."""
    if os.environ.get("DSR_LAB") == "qemu":
        return
    outside = pytest.mark.skip(reason="runs inside a machine of the lab: tests/run installed-13 installed-12")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(outside)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for line in _LEDGER.lines():
        terminalreporter.write_line(line)


@pytest.fixture
def ledger() -> Ledger:
    """Where to write down what was measured."""
    return _LEDGER
