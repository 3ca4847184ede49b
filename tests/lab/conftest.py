"""What is in this folder runs inside a machine of the lab, which says so in the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.ledger import Ledger

HERE = Path(__file__).parent

_LEDGER = Ledger()


def pytest_configure(config: pytest.Config) -> None:
    """Say which marks there are."""
    config.addinivalue_line("markers", "irreversible: changes the machine for good, so it runs after all others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Outside a machine nothing here can run: say so instead of failing half way."""
    items.sort(key=lambda item: item.get_closest_marker("irreversible") is not None)
    if os.environ.get("DSR_LAB"):
        return
    outside = pytest.mark.skip(reason="runs inside a machine of the lab: tests/run lab")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(outside)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if lines := _LEDGER.lines():
        terminalreporter.write_sep("=", "repairs and losses")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """Where to write down what was measured."""
    return _LEDGER
