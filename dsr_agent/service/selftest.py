"""The self-test of a file on this host: which ways there are, and one run over all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dsr_agent.config import Loaded
from dsr_agent.kernel.probe import Prober
from dsr_agent.reconcile.resolve import Wanted, resolve
from dsr_agent.state.model import Desired, Ip, Observed
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.truth.probe import Pair, Way, clients, pairs, shot, tunnels_of
from dsr_agent.truth.trial import Fire, trial

# Each of these takes a whole timeout when it gets lost again.
_AGAIN = 6


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: what became of each packet, and which VIPs could not be tried by which tunnel, and why."""

    sights: Mapping[Pair, Sight]
    untried: tuple[tuple[Ip, str, str], ...]

    @property
    def count(self) -> int:
        """How many there should have been."""
        return len(self.sights) + len(self.untried)

    @property
    def fine(self) -> bool:
        """Whether every packet arrived as it should."""
        return not self.untried and all(sight.what is Seen.ARRIVED for sight in self.sights.values())


def ways(wanted: Wanted) -> dict[str, Way]:
    """The tunnels that have a link, or will have one."""
    return {item.tunnel.name: Way(item.tunnel, item.link) for item in wanted.carried}


def taken(desired: Desired, observed: Observed) -> set[Ip]:
    """The addresses that are somebody's on this host."""
    return {*desired.key_of_ip, *(key.ip for key in observed.addresses)}


async def once(loaded: Loaded, observed: Observed, named: Collection[Ip]) -> Trial:
    """Try every VIP of the file, or those *named*, by each of its tunnels. Raises `NotPermitted`."""
    with _aiming(loaded, observed) as (there, fire):
        sights = await trial(pairs(loaded.desired, there, named), fire, loaded.settings.probe.fall)
    return Trial(sights, tuple(_untried(loaded.desired, there, named)))


async def with_care(loaded: Loaded, observed: Observed, named: Collection[Ip]) -> Mapping[Pair, Sight]:
    """
    The same for the doctor: what got lost is sent again by itself, so that what counts more meanwhile is its own.

    Only some of many; what is lost for one of them is so for all. Raises `NotPermitted`.
    """
    with _aiming(loaded, observed) as (there, fire):
        sights = dict(await trial(pairs(loaded.desired, there, named), fire, 1))
        lost = [pair for pair, sight in sights.items() if sight.what is Seen.LOST]
        by_tunnel = {pair.tunnel: pair for pair in reversed(lost)}
        chosen = list(dict.fromkeys([*by_tunnel.values(), *lost]))[:_AGAIN]
        return {**sights, **await trial(chosen, fire, 1, at_once=1)}


@contextmanager
def _aiming(loaded: Loaded, observed: Observed) -> Iterator[tuple[Mapping[str, Way], Fire]]:
    """The tunnels that there are, and what sends one packet."""
    desired, probe = loaded.desired, loaded.settings.probe
    there = ways(resolve(desired, observed))
    who = clients(taken(desired, observed))
    prober = Prober()

    async def fire(pair: Pair) -> Sight:
        if (client := who.get(pair.vip.version)) is None:
            return Sight(Seen.UNKNOWN, why="every address that a client could have is a VIP or this host's own")
        return await prober.fire(shot(pair, there[pair.tunnel], client), probe.timeout, evidence=True)

    try:
        yield there, fire
    finally:
        prober.close()


def _untried(desired: Desired, there: Mapping[str, Way], named: Collection[Ip]) -> list[tuple[Ip, str, str]]:
    found = []
    for vip in desired.vips.values():
        if vip.ip not in named if named else vip.ip in desired.held:
            continue
        names = tunnels_of(vip, desired)
        found += [(vip.ip, name, "it has no local address yet") for name in names if name not in there]
        if not names:
            found.append((vip.ip, "any tunnel", f"none of its tunnels carries IPv{vip.ip.version}"))
    return found
