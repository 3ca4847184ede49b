"""The fast tests in shares: whole modules, as each has a network of its own, and shares that take equally long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# As measured; what is not here is one of the short ones. Nothing but the balance depends on it.
SECONDS: dict[str, int] = {}
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
