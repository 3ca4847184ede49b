"""
From the table that is there to the table that is wanted, as one transaction. Pure.

The kernel puts a transaction in force as a whole: no packet ever meets half of it. Sets that keep their shape keep
their elements, and elements that stay keep their counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dsr_agent.state.table import FAMILY, NAME, Chain, FilterSet, SetShape, Table, canonical

# The JSON of one command; nft takes long lists of elements well, and the kernel's messages are bounded anyway.
_PLACE = {"family": FAMILY, "table": NAME}
_ITSELF = {"family": FAMILY, "name": NAME}


def commands(wanted: Table, there: Table | None) -> tuple[str, ...]:
    """The commands, in order; empty when *there* is as *wanted*."""
    if there is None:
        return tuple(_texts([_add("table", _ITSELF), *_build(wanted, Table())]))
    if there.strangers:  # some of them nftables can list and not remove, and others hold our own chains in place
        return (*removal(), *commands(wanted, None))
    if _structure(wanted) == _structure(there):
        return tuple(_texts(_elements(wanted.sets, there.sets)))
    return tuple(_texts([*_clear(wanted, there), *_build(wanted, _kept(wanted, there))]))


def removal() -> tuple[str, ...]:
    """The commands that take the table away."""
    return tuple(_texts([{"delete": {"table": _ITSELF}}]))


def _structure(table: Table) -> tuple[object, ...]:
    shapes = {name: there.shape for name, there in table.sets.items()}
    return shapes, table.counters, dict(table.chains)


def _kept(wanted: Table, there: Table) -> Table:
    """What of *there* stays as it is while the rest is made anew."""
    sets = {name: found for name, found in there.sets.items() if _same_shape(wanted, name, found)}
    chains = {name: Chain((), *chain.place) for name, chain in there.chains.items() if _same_place(wanted, name, chain)}
    return Table(sets, there.counters & wanted.counters, chains)


def _same_shape(wanted: Table, name: str, found: FilterSet) -> bool:
    return name in wanted.sets and wanted.sets[name].shape == found.shape


def _same_place(wanted: Table, name: str, chain: Chain) -> bool:
    return name in wanted.chains and wanted.chains[name].place == chain.place


def _clear(wanted: Table, there: Table) -> Iterator[dict[str, Any]]:
    """All rules, because they hold the rest in place, then what does not stay."""
    kept = _kept(wanted, there)
    for name in there.chains:
        yield {"flush": {"chain": _named(name)}}
    for name in there.chains.keys() - kept.chains.keys():
        yield {"delete": {"chain": _named(name)}}
    for name in there.sets.keys() - kept.sets.keys():
        yield {"delete": {"set": _named(name)}}
    for name in there.counters - kept.counters:
        yield {"delete": {"counter": _named(name)}}


def _build(wanted: Table, there: Table) -> Iterator[dict[str, Any]]:
    """What is not there yet, and all rules: the chains they name come before them."""
    for name in sorted(wanted.counters - there.counters):
        yield _add("counter", _named(name))
    for name, found in wanted.sets.items():
        if name not in there.sets:
            yield _add("set", _named(name) | _shape(found.shape))
    yield from _elements(wanted.sets, there.sets)
    for name, chain in wanted.chains.items():
        if name not in there.chains:
            hook = {"type": chain.type, "hook": chain.hook, "prio": chain.priority, "policy": "accept"}
            yield _add("chain", _named(name) | (hook if chain.hook else {}))
    for name, chain in wanted.chains.items():
        for rule in chain.rules:
            yield _add("rule", _PLACE | {"chain": name, "expr": json.loads(rule)})


def _elements(wanted: Mapping[str, FilterSet], there: Mapping[str, FilterSet]) -> Iterator[dict[str, Any]]:
    for name, found in wanted.items():
        before = there[name].elements if name in there else frozenset()
        # First what goes: intervals must not overlap, not even for a moment.
        for verb, elements in (("delete", before - found.elements), ("add", found.elements - before)):
            if elements:
                yield {verb: {"element": _named(name) | {"elem": [json.loads(text) for text in sorted(elements)]}}}


def _shape(shape: SetShape) -> dict[str, Any]:
    found: dict[str, Any] = {"type": shape.type[0] if len(shape.type) == 1 else list(shape.type)}
    if shape.size:
        found["size"] = shape.size
    if shape.interval:
        found["flags"] = ["interval"]
    if shape.counted:
        found["stmt"] = [{"counter": None}]
    return found


def _named(name: str) -> dict[str, Any]:
    return _PLACE | {"name": name}


def _add(kind: str, what: Mapping[str, Any]) -> dict[str, Any]:
    return {"add": {kind: dict(what)}}


def _texts(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    return map(canonical, found)
