"""
Forged packets, with the guard and without: what gets through to a service, through to somebody else, or is answered.

Without a guard this is the record of what a host with a tunnel is open to. With it each packet is refused and counted
under one reason, while what is declared goes on.
"""

from __future__ import annotations

import collections
import contextlib
import signal
from collections.abc import Iterator

import pytest

from tests.lab import attack_parts as parts
from tests.lab.agent import tunnel, vip, wait_for
from tests.lab.attack_parts import ALLOWED, BESIDE, CONFIG, REASONS, Attack
from tests.lab.attacks import ATTACKS, SERVICE_ATTACKS
from tests.lab.guarded import GUARD, WITHOUT_GUARD, need_guard
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH, MOSTLY_FAST
from tests.lab.servers import clean, streams, total
from tests.lab.siege import TUNNELS, Siege, kernel_counters, siege
from tests.lab.spaces import ip, set_sysctls
from tests.lab.world import RS1

ROUNDS = 5

each = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
each_service = pytest.mark.parametrize("attack", SERVICE_ATTACKS, ids=lambda attack: attack.name)

# To a VIP that is not there just now, on a host that forwards everywhere.
STRAY = {
    parts.VIP_GRE: Attack(
        "to a vip that is gone", parts.FORWARD, parts.FORWARDED, parts.ipip(parts.inner(parts.VIP_GRE))
    ),
    parts.VIP6: Attack(
        "to an ipv6 vip that is gone",
        *(parts.FORWARD, parts.FORWARDED, parts.in_gre(parts.inner(parts.VIP6, parts.CLIENT6))),
    ),
}

Seen = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def seen() -> Seen:
    """What became of each attack, by its name, without a guard (off) and with it (on)."""
    return {"off": {}, "on": {}}


@pytest.fixture(scope="module", autouse=True)
def _table(seen: Seen, ledger: Ledger) -> Iterator[None]:
    """All of it as a table at the end."""
    yield
    ledger.note(f"{'forged packet':<60} {'reason':<18} {'without guard':<14} with guard")
    for attack in (*ATTACKS, *STRAY.values(), *SERVICE_ATTACKS):
        off, on = (seen[way].get(attack.name, "not tried") or "-" for way in ("off", "on"))
        ledger.note(f"{attack.name:<60} {attack.reason:<18} {off:<14} {on}")


@contextlib.contextmanager
def vip_gone(host: Siege, address: str) -> Iterator[None]:
    """The agent is held, the VIP is gone, and everything forwards; all is well again afterwards."""
    host.prepare(parts.FORWARDING)
    assert host.agent.process
    host.agent.process.send_signal(signal.SIGSTOP)
    try:
        ip(RS1, f"address del {address} dev lo")
        set_sysctls(RS1, {f"ipv4/conf/{name}/forwarding": 1 for name in TUNNELS})
        yield
    finally:
        host.agent.process.send_signal(signal.SIGCONT)
    wait_for(lambda: host.outcome(STRAY[address]) == parts.DELIVERED, f"{address} to be back")


class TestWithoutGuard:
    @pytest.fixture(scope="class", params=MOSTLY_FAST)
    @staticmethod
    def host() -> Iterator[Siege]:
        with siege(CONFIG + WITHOUT_GUARD) as found:
            yield found

    @each
    def test_what_gets_through(self, host: Siege, attack: Attack, seen: Seen) -> None:
        host.prepare(attack.host)
        before = kernel_counters()
        outcome = seen["off"][attack.name] = host.outcome(attack)
        assert outcome == attack.today
        if attack.evidence:
            assert kernel_counters()[attack.evidence] > before[attack.evidence]

    @each_service
    def test_every_port_of_a_vip_is_reached(self, host: Siege, attack: Attack, seen: Seen) -> None:
        host.prepare("")
        outcome = seen["off"][attack.name] = host.outcome(attack)
        assert outcome == attack.today

    @pytest.mark.parametrize("address", STRAY)
    def test_a_vip_that_is_gone_is_forwarded(self, host: Siege, address: str, seen: Seen) -> None:
        stray = STRAY[address]
        with vip_gone(host, address):
            seen["off"][stray.name] = outcome = host.outcome(stray)
        assert outcome == stray.today


class TestWithGuard:
    @pytest.fixture(scope="class", params=BOTH)
    @staticmethod
    def host() -> Iterator[Siege]:
        need_guard()
        with siege(GUARD + CONFIG) as found:
            yield found

    @each
    def test_is_refused_and_counted_under_one_reason(self, host: Siege, attack: Attack, seen: Seen) -> None:
        host.prepare(attack.host)
        if attack.reason == BESIDE:
            device = attack.name.split()[0]
            wait_for(lambda: "UP" not in ip(RS1, f"-o link show {device}"), f"the agent to take {device} down")
        before = host.dropped()
        outcome = host.outcome(attack)
        counted = more(before, host.dropped())
        seen["on"][attack.name] = shown(outcome, counted)
        if attack.reason == BESIDE:
            assert outcome in ("", parts.ANSWERED)
        else:
            assert outcome == (attack.today if attack.reason == ALLOWED else "")
        if attack.counted:
            assert counted == ({attack.reason: attack.counted} if attack.reason in REASONS else {})
        else:
            assert counted.keys() == {attack.reason}

    @pytest.mark.parametrize("address", STRAY)
    def test_a_vip_that_is_gone_is_not_forwarded(self, host: Siege, address: str, seen: Seen) -> None:
        stray = STRAY[address]
        before = host.dropped()
        with vip_gone(host, address):
            outcome = host.outcome(stray)
        counted = more(before, host.dropped())
        seen["on"][stray.name] = shown(outcome, counted)
        assert outcome == ""
        assert counted.keys() == {parts.FORWARD}  # some more while the agent puts it back

    def test_declared_traffic_goes_on(self, host: Siege, ledger: Ledger) -> None:
        """Every attack again and again, and nothing that is declared is lost, nothing else is delivered."""
        host.prepare("")
        wild = [attack for attack in ATTACKS if attack.counted and not attack.host and attack.reason != ALLOWED]
        before = host.dropped()
        sent = []
        with streams() as found:
            for attack in wild * ROUNDS:
                sent.append(host.send(attack))
                found[0].wait_answered(1)
                host.watch.look()
            host.settle()
            tally = total(found)
        ledger.add(f"{len(sent)} forged packets of {len(wild)} kinds", None, tally)
        assert clean(tally)
        assert {host.became(number) for number in sent} == {""}
        expected = collections.Counter[str]()
        for attack in wild:
            expected[attack.reason] += ROUNDS * attack.counted * (attack.reason in REASONS)
        assert more(before, host.dropped()) == {reason: n for reason, n in expected.items() if n}


def more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What has been counted meanwhile."""
    return {reason: n - before[reason] for reason, n in after.items() if n != before[reason]}


def shown(outcome: str, counted: dict[str, int]) -> str:
    """What became of a packet and what was counted, for the table."""
    return " ".join([*([outcome] if outcome else []), *(f"{reason}+{n}" for reason, n in counted.items())])


SERVED = (
    "[guard]\nservices = true\n"
    + tunnel("ipip", load_balancers=[parts.BALANCER, parts.ONLY_IPIP])
    + tunnel("gre")
    + vip(parts.VIP, services=["udp/7001", f"udp/{parts.PORT}", "tcp/7001", f"tcp/{parts.PORT + 2}"])
    + vip(parts.VIP_GRE, services=["udp/7001"])
    + vip(parts.VIP6, services=["udp/7001"])
)


class TestWithServices:
    @pytest.fixture(scope="class", params=BOTH)
    @staticmethod
    def host() -> Iterator[Siege]:
        need_guard()
        with siege(SERVED) as found:
            yield found

    @each_service
    def test_only_declared_services_are_reached(self, host: Siege, attack: Attack, seen: Seen) -> None:
        before = host.dropped()
        outcome = host.outcome(attack)
        counted = more(before, host.dropped())
        seen["on"][attack.name] = shown(outcome, counted)
        allowed = attack.reason == ALLOWED
        assert (outcome, counted) == ((attack.today, {}) if allowed else ("", {attack.reason: attack.counted}))

    def test_what_is_declared_goes_on(self, host: Siege, ledger: Ledger) -> None:
        with streams() as found:
            for attack in SERVICE_ATTACKS * ROUNDS:
                host.send(attack)
                found[0].wait_answered(1)
            tally = total(found)
        ledger.add("packets to services that are not declared", None, tally)
        assert clean(tally)
