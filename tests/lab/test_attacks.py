"""
Forged packets, with the guard and without: what gets through to a service, through to somebody else, or is answered.

Without a guard this is the record of what a host with a tunnel is open to. With it each packet is refused and counted under
one reason, while what is declared goes on.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent
from tests.lab.attack_parts import ALLOWED, BESIDE, BY_KERNEL, CONFIG, Attack
from tests.lab.attacks import ATTACKS
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.servers import clean, streams, total
from tests.lab.siege import Siege, has_inet_tables, kernel_counters, siege
from tests.lab.world import RS1

GUARD = "[guard]\nenabled = {}\n"
ROUNDS = 3

each = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    """What became of each attack, without a guard and with it."""
    return {"off": {}, "on": {}}


def _knows_guard() -> bool:
    agent = Agent(RS1, GUARD.format("true") + CONFIG)
    try:
        return agent.call("check").returncode == 0
    finally:
        agent.close()


class TestWithoutGuard:
    @pytest.fixture(scope="class", params=BOTH)
    @staticmethod
    def host() -> Iterator[Siege]:
        with siege(CONFIG) as found:
            yield found

    @each
    def test_what_gets_through(self, host: Siege, attack: Attack, outcomes: dict[str, dict[str, str]]) -> None:
        host.prepare(attack.host)
        before = kernel_counters()
        outcome = outcomes["off"][attack.name] = host.outcome(attack)
        after = kernel_counters()
        moved = {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}
        print(f"ROW {attack.name} | {outcome} | {moved}")
        assert outcome == attack.today
