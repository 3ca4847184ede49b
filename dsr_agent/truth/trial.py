"""One run over many pairs, for ``dsr-agent probe``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from dsr_agent.state.probe import Seen, Sight
from dsr_agent.truth.probe import Pair

Fire = Callable[[Pair], Awaitable[Sight]]

# So many at once: each has a socket of its own.
_AT_ONCE = 64


async def trial(pairs: Iterable[Pair], fire: Fire, tries: int, at_once: int = _AT_ONCE) -> Mapping[Pair, Sight]:
    """
    Each pair's last result, in the order of *pairs*.

    What gets lost is sent again, up to *tries* times in all; one lost packet says nothing.
    What counts more while one of several is under way may be another one's: *at_once* says how many that are.
    """
    waiting = iter(pairs)
    results: dict[Pair, Sight] = {}

    async def work() -> None:
        for pair in waiting:
            results[pair] = Sight(Seen.UNKNOWN)
            for _ in range(tries):
                results[pair] = await fire(pair)
                if results[pair].what is not Seen.LOST:
                    break

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return results
