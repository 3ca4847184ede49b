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
from dsr_agent.truth.probe import MarkedWay, Pair, Way, Ways, carries, clients, pairs, shot
from dsr_agent.truth.trial import Fire, trial

# Tunnels and VIPs that are tried once more.
_AGAIN = 6


@dataclass(frozen=True, slots=True)
class Trial:
    """
    One run: what became of each packet, and which VIPs could not be tried by which tunnel, and why.

    *plain* are those that there is nothing to try of: what comes as it is (``l2``) is a packet like any other.
    """

    sights: Mapping[Pair, Sight]
    untried: tuple[tuple[Ip, str, str], ...]
    plain: tuple[Pair, ...] = ()

    @property
    def count(self) -> int:
        """How many there should have been."""
        return len(self.sights) + len(self.untried)

    @property
    def fine(self) -> bool:
        """Whether every packet arrived as it should."""
        return not self.untried and all(sight.what is Seen.ARRIVED for sight in self.sights.values())


def ways(wanted: Wanted, somebodys: Collection[Ip] = ()) -> dict[str, Way]:
    """The tunnels that have a link, or will have one; *somebodys* are the addresses that are `taken`."""
    return {
        item.tunnel.name: Way(item.tunnel, item.link, item.port, item.arrives_in, somebodys) for item in wanted.carried
    }


def every_way(wanted: Wanted, desired: Desired, somebodys: Collection[Ip] = ()) -> Ways:
    """These, and the tunnels whose packets are known by their code point."""
    found: dict[str, Way | MarkedWay] = {**ways(wanted, somebodys)}
    codes = {vip.ip: vip.dscp for vip in desired.vips.values() if vip.dscp is not None}
    for name, ips in wanted.bare.marked_at.items():
        arrivals: dict[int, Ip] = {ip.version: ip for ip in sorted(ips, key=str, reverse=True)}
        found[name] = MarkedWay(desired.tunnels[name], arrivals, codes)
    return found


def taken(desired: Desired, observed: Observed) -> set[Ip]:
    """The addresses that are somebody's on this host."""
    return {*desired.key_of_ip, *(key.ip for key in observed.addresses)}


async def once(loaded: Loaded, observed: Observed, named: Collection[Ip]) -> Trial:
    """Try every VIP of the file, or those *named*, by each of its tunnels. Raises `NotPermitted`."""
    with _aiming(loaded, observed) as (there, fire):
        sights = await trial(pairs(loaded.desired, there, named), fire, loaded.settings.probe.fall)
    untried = tuple(_untried(loaded.desired, there, named))
    return Trial(sights, untried, tuple(_plain(loaded.desired, named)))


async def with_care(loaded: Loaded, observed: Observed, named: Collection[Ip]) -> Mapping[Pair, Sight]:
    """
    The same for the doctor: what got lost is tried once more by itself, so that what counts more meanwhile is its own.

    Only some of many: each takes a whole timeout. Raises `NotPermitted`.
    """
    with _aiming(loaded, observed) as (there, fire):
        sights = dict(await trial(pairs(loaded.desired, there, named), fire, loaded.settings.probe.fall))
        lost = [pair for pair, sight in sights.items() if sight.what is Seen.LOST]
        by_tunnel = {pair.tunnel: pair for pair in reversed(lost)}
        chosen = list(dict.fromkeys([*by_tunnel.values(), *lost]))[:_AGAIN]
        return {**sights, **await trial(chosen, fire, 1, at_once=1)}


@contextmanager
def _aiming(loaded: Loaded, observed: Observed) -> Iterator[tuple[Ways, Fire]]:
    """The tunnels that there are, and what sends one packet."""
    desired, probe = loaded.desired, loaded.settings.probe
    somebodys = taken(desired, observed)
    there, who = every_way(resolve(desired, observed), desired, somebodys), clients(somebodys)
    prober = Prober(probe.port)

    async def fire(pair: Pair) -> Sight:
        if (client := who.get(pair.vip.version)) is None:
            return Sight(Seen.UNKNOWN, why="every address that a client could have is a VIP or this host's own")
        return await prober.fire(shot(pair, there[pair.tunnel], client), probe.timeout, evidence=True)

    try:
        yield there, fire
    finally:
        prober.close()


def _plain(desired: Desired, named: Collection[Ip]) -> Iterator[Pair]:
    for vip in desired.vips.values():
        if vip.ip in named if named else vip.ip not in desired.held:
            yield from (Pair(vip.ip, name) for name in vip.tunnels if desired.tunnels[name].encapsulation == "l2")


def _untried(desired: Desired, there: Ways, named: Collection[Ip]) -> list[tuple[Ip, str, str]]:
    found = []
    for vip in desired.vips.values():
        if vip.ip not in named if named else vip.ip in desired.held:
            continue
        lacking = [name for name in vip.tunnels if not carries(there.get(name), vip.ip)]
        lacking = [name for name in lacking if desired.tunnels[name].encapsulation != "l2"]
        found += [(vip.ip, name, _why_untried(there.get(name))) for name in lacking]
        if not vip.tunnels:
            found.append((vip.ip, "any tunnel", "it has none"))
    return found


def _why_untried(way: Way | MarkedWay | None) -> str:
    return "its link takes IPv4 alone" if isinstance(way, Way) else "it has no local address yet"
