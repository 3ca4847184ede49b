"""What is in this folder runs inside a machine of the lab, which says so in the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.ledger import Ledger
from tests.lab.shares import shares

HERE = Path(__file__).parent

_LEDGER = Ledger()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which share of the modules is run here."""
    parser.addoption("--share", metavar="K/N", default="1/1", help="of the modules in tests/lab, the Kth of N shares")


def pytest_configure(config: pytest.Config) -> None:
    """Say which marks there are."""
    config.addinivalue_line("markers", "irreversible: changes the machine for good, so it runs after all others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Outside a machine nothing here can run: say so instead of failing half way."""
    number, count = map(int, config.getoption("--share").split("/"))
    mine = shares((item.path.stem for item in items), count)[number - 1]
    if left := [item for item in items if item.path.stem not in mine]:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item.path.stem in mine]
    items.sort(key=lambda item: item.get_closest_marker("irreversible") is not None)
    if os.environ.get("DSR_LAB"):
        return
    outside = pytest.mark.skip(reason="runs inside a machine of the lab: tests/run lab")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(outside)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What failed is tried again in this machine (`tests.lab.again`), which has to be as it was until then."""
    if item.session.testsfailed and item.get_closest_marker("irreversible"):
        pytest.fail("put off until what has failed has been tried once more")


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
