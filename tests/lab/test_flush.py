"""
Somebody flushes all of nftables again and again, under traffic and under attack: who gets through meanwhile?

Where the kernel lets a table belong to a process (6.9 and later, flags *owner* and *persist*), a flush passes ours by.
On older kernels there is a window until the agent has put it back: it is measured, and costs no declared packet.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import attack_parts as parts
from tests.lab.agent import wait_for
from tests.lab.attack_parts import CONFIG, Attack
from tests.lab.attacks import ATTACKS
from tests.lab.guarded import GUARD, TABLE, need_guard, nft
from tests.lab.ledger import Ledger, duration
from tests.lab.marks import BOTH, LONG
from tests.lab.servers import clean, streams, total
from tests.lab.siege import Siege, siege
from tests.lab.spaces import inside
from tests.lab.world import RS1

TIMES = 100 if LONG else 15
FEWER = 25 if LONG else 10  # where each takes a moment, because the table has to be put back
PACE = 0.005  # of the attacker, who would otherwise have the only processor to itself

# What would reach a service: through a tunnel from a stranger, and past the VIPs from a balancer.
WILD = tuple(
    attack
    for attack in ATTACKS
    if attack.today == parts.DELIVERED and attack.reason in parts.REASONS and attack.counted == 1 and not attack.host
)


class Attacker:
    """Sends what must not get through."""

    def __init__(self, host: Siege) -> None:
        self.sent: list[tuple[int, Attack]] = []
        self._host = host
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        while not self._stopping.wait(PACE):
            attack = WILD[len(self.sent) % len(WILD)]
            self.sent.append((self._host.send(attack), attack))

    def wait(self, more: int) -> None:
        """Return once some more has been sent."""
        wanted = len(self.sent) + more
        wait_for(lambda: len(self.sent) >= wanted, "the attacker to send")

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join()

    def __enter__(self) -> Attacker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture(scope="module", params=BOTH)
def host() -> Iterator[Siege]:
    need_guard()
    with siege(GUARD + CONFIG) as found:
        yield found


def table() -> str:
    """Our table without its counters, or nothing."""
    with contextlib.suppress(RuntimeError):
        return nft("-s", "list", "table", *TABLE.split())
    return ""


def owned() -> bool:
    """Whether the table belongs to the agent."""
    return any("owner" in line for line in table().splitlines() if line.split()[:1] == ["flags"])


@pytest.mark.timeout(900)
def test_flushed_time_and_again(host: Siege, ledger: Ledger) -> None:
    before, ours = table(), owned()
    windows = []
    with streams() as found, Attacker(host) as attacker:
        for _ in range(TIMES if ours else FEWER):
            nft("flush", "ruleset")
            flushed = time.monotonic()
            wait_for(lambda: table() == before, "the table to be as it was")
            windows.append(time.monotonic() - flushed)
            attacker.wait(3)
            host.watch.look()
        attacker.stop()
        host.settle()
        tally = total(found)
    through = [attack.name for number, attack in attacker.sent if host.became(number)]
    whose, window = ("the agent's own", None) if ours else ("anybody's", sorted(windows)[len(windows) // 2])
    ledger.add(f"flush ruleset {len(windows)} times, the table being {whose}", window, tally)
    longest = "" if ours else f", the longest window being {duration(max(windows))}"
    ledger.note(f"{len(through)} of {len(attacker.sent)} forged packets got through the flushes{longest}")
    assert clean(tally)
    assert not ours or not through, f"got through an owned table: {sorted(set(through))}"
    assert owned() == ours


@pytest.mark.parametrize("what", ["delete table", "flush table", "flush chain", "add rule"])
def test_an_owned_table_is_nobody_elses(host: Siege, what: str) -> None:
    if not owned():
        pytest.skip("this kernel's tables belong to everybody")
    before = table()
    chain = next(line.split()[1] for line in before.splitlines() if line.split()[:1] == ["chain"])
    rest = {"flush chain": [chain], "add rule": [chain, "accept"]}.get(what, [])
    with inside(RS1):
        done = subprocess.run(
            ["nft", *what.split(), *TABLE.split(), *rest], capture_output=True, text=True, check=False
        )
    assert done.returncode != 0
    assert "not permitted" in done.stderr
    assert table() == before


def test_reloaded_rules_of_the_distribution(host: Siege, ledger: Ledger) -> None:
    """``systemctl reload nftables`` runs a file that begins with a flush and has rules of its own."""
    before = table()
    theirs = "flush ruleset\ntable inet filter {\n chain input {\n  type filter hook input priority filter\n }\n}\n"
    with streams() as found, Attacker(host) as attacker:
        for _ in range(5):
            nft("-f", "-", given=theirs)
            wait_for(lambda: table() == before, "the table to be as it was")
            attacker.wait(3)
        tally = total(found)
    nft("delete", "table", "inet", "filter")
    ledger.add("nftables reloaded 5 times", None, tally)
    assert clean(tally)
