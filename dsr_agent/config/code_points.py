"""What must agree about code points (DSCP): each means one VIP, and means one only where it is looked for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dsr_agent.config.origins import Place
from dsr_agent.config.settings import TunnelSettings, VipSettings
from dsr_agent.config.wording import KeyPath

Where = Callable[[KeyPath], Place]
Refusal = tuple[Place, str]

_TUNNEL = '[[tunnel]] with encapsulation = "dscp"'


def disagreements(
    tunnels: Sequence[TunnelSettings], vips: Sequence[VipSettings | None], where: Where
) -> Iterator[Refusal]:
    """
    Code points without a tunnel that looks for them, tunnels without a code point, and two VIPs behind one.

    A VIP that does not name its tunnels is sent to by ``dscp`` if it has a code point, and otherwise by the others.
    """
    looking = {tunnel.name: tunnel for tunnel in tunnels if tunnel.encapsulation == "dscp"}
    every = tuple(tunnel.name for tunnel in tunnels)
    known = set(every)
    for index, vip in enumerate(vips):
        if vip is None:
            continue
        named = every if vip.tunnels is None else vip.tunnels
        through = [name for name in named if name in looking]
        if vip.dscp is not None and not through and known.issuperset(named):
            place = where(("vip", index, "dscp"))
            elsewhere = f'name it: tunnels = ["{next(iter(looking))}"]' if looking else f"write a {_TUNNEL}"
            yield place, f"found {vip.dscp}, and no tunnel of this VIP looks for code points: {elsewhere}, or remove it"
        if vip.dscp is None and through and (vip.tunnels is not None or len(through) == len(every)):
            key = ("vip", index) if vip.tunnels is None else ("vip", index, "tunnels", named.index(through[0]))
            remedy = "write dscp = 7, with the code point that the balancer gives it"
            yield where(key), f"packets of {through[0]} are known by their code point, and this VIP has none: {remedy}"
        found = [looking[name].local for name in through]
        if vip.dscp is not None and found and not any(_can_be(local, vip.address.version) for local in found):
            place, other = where(("vip", index, "dscp")), f"IPv{vip.address.version}"
            told = f'found {vip.dscp}, and {through[0]} looks for it at "{found[0]}" only, where no {other} arrives'
            yield place, f"{told}: write a {_TUNNEL} of its own, with an {other} address of this host as its local"
    yield from _shared(looking, every, vips, where)


def _can_be(local: object, version: int) -> bool:
    """Whether there may be packets of that version where a tunnel looks; of an interface that is not known yet."""
    return isinstance(local, str) or getattr(local, "version", version) == version


def _shared(
    looking: dict[str, TunnelSettings], every: tuple[str, ...], vips: Sequence[VipSettings | None], where: Where
) -> Iterator[Refusal]:
    """Two VIPs of one IP version behind one code point, at what may be the same address."""
    taken: dict[tuple[int, int], list[tuple[int, TunnelSettings]]] = {}
    for index, vip in enumerate(vips):
        if vip is None or vip.dscp is None:
            continue
        mine = [looking[name] for name in (every if vip.tunnels is None else vip.tunnels) if name in looking]
        before = taken.setdefault((vip.address.version, vip.dscp), [])
        rival = next((other for other, tunnel in before if any(_meet(tunnel, own) for own in mine)), None)
        if rival is None:
            before += [(index, tunnel) for tunnel in mine]
            continue
        place = where(("vip", index, "dscp"))
        first = where(("vip", rival, "dscp")).seen_from(place)
        yield (
            place,
            f"found {vip.dscp}, which means another VIP of IPv{vip.address.version} ({first}): give each its own",
        )


def _meet(one: TunnelSettings, other: TunnelSettings) -> bool:
    """Whether they may look at one address: two addresses, interfaces, or VRFs whose addresses are meant, differ."""
    if isinstance(one.local, str) and isinstance(other.local, str) and one.vrf != other.vrf:
        return False
    if one.local == other.local or "auto" in (one.local, other.local):
        return True
    return isinstance(one.local, str) is not isinstance(other.local, str)
