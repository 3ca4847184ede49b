"""The fast tests in shares: whole modules, as each has a network of its own, and shares that take equally long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# As measured; what is not here is one of the short ones. Nothing but the balance depends on it.
SECONDS = {
    "test_doctor": 200,
    "test_faults": 260,
    "test_doctor_kinds": 140,
    "test_encapsulations": 110,
    "test_migration": 56,
    "test_vrf": 50,
    "test_contract": 40,
    "test_keepalived": 35,
    "test_together": 30,
    "test_probe": 30,
    "test_drift": 40,
    "test_lifecycle": 25,
    "test_no_false_alarm": 25,
    "test_prometheus": 23,
    "test_scale": 21,
    "test_segment": 19,
    "test_modules": 17,
    "test_reload": 17,
    "test_rights": 13,
    "test_adoption": 11,
}
SHORT = 5


def shares(modules: Iterable[str], count: int) -> Sequence[frozenset[str]]:
    """*count* sets of modules, each module in one of them: the longest first, each to who has least to do."""
    found: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for module in sorted(set(modules), key=lambda name: (-SECONDS.get(name, SHORT), name)):
        least = loads.index(min(loads))
        found[least].append(module)
        loads[least] += SECONDS.get(module, SHORT)
    return [frozenset(share) for share in found]
