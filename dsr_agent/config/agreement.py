"""What must agree between the entries of all files: names, addresses, and what the kernel can hold at once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from ipaddress import ip_address

from dsr_agent.config import code_points, vrfs
from dsr_agent.config.origins import Place
from dsr_agent.config.settings import TunnelSettings, VipSettings
from dsr_agent.config.values import AUTO
from dsr_agent.config.wording import KeyPath, closest, show
from dsr_agent.state.marks import stand_in_name
from dsr_agent.state.model import BARE, Ip

# An entry is None where it could not be read: it is refused on its own, and the others are still held together.
Tunnels = Sequence[TunnelSettings | None]
Vips = Sequence[VipSettings | None]
Where = Callable[[KeyPath], Place]
Refusal = tuple[Place, str]

SHOWN = 10  # of many tunnels, so many are named, or tried as what a wrong name may have meant


def disagreements(tunnels: Tunnels, vips: Vips, where: Where, names: Set[str] | None = None) -> Iterator[Refusal]:
    """
    Everything that cannot stand side by side. Costs one look at each entry; *where* is asked only about a refusal.

    *names* are the tunnels that a VIP may refer to, or `None` where that cannot be known.
    """
    yield from _same_name(tunnels, where)
    yield from _stand_ins(tunnels, where)
    yield from _same_key(tunnels, where)
    yield from _own_balancer(tunnels, where)
    yield from _same_vip(vips, where)
    yield from _vip_of_a_host(tunnels, vips, where)
    yield from vrfs.disagreements(tunnels, vips, where)
    if names is not None:
        yield from _unknown_tunnels(vips, where, names)
    if None not in tunnels:
        yield from code_points.disagreements([tunnel for tunnel in tunnels if tunnel], vips, where)


def same_doors(http: Sequence[str], agent_check: Sequence[str], where: Where) -> Iterator[Refusal]:
    """Places at which HTTP is served and agent checks are to be answered, too: only one of them can have it."""
    for index, door in enumerate(agent_check):
        for taken, other in enumerate(http):
            if _clash(door, other):
                place = where(("agent_check", "listen", index))
                first = where(("http", "listen", taken)).seen_from(place)
                yield place, f'found "{door}", where HTTP is served ({first}): write another port'
                break


def _clash(one: str, other: str) -> bool:
    """A socket for all addresses wants them all; one for all of IPv6 leaves IPv4 alone."""
    (host, _, port), (host2, _, port2) = one.rpartition(":"), other.rpartition(":")
    (name, vrf), (name2, vrf2) = _without_vrf(host), _without_vrf(host2)
    if (port, vrf) != (port2, vrf2):
        return False
    everywhere = bool({name, name2} & {"0.0.0.0", "[::]"})
    return name == name2 or (everywhere and name.startswith("[") == name2.startswith("["))


def _without_vrf(host: str) -> tuple[str, str]:
    bare, _, vrf = host.removesuffix("]").partition("%")
    return bare + "]" * host.endswith("]"), vrf


def _groups(keys: Iterable[tuple[int, object]]) -> Iterator[tuple[object, list[int]]]:
    """The keys that occur more than once, with the indices of the entries that have them."""
    seen: dict[object, list[int]] = {}
    for index, key in keys:
        seen.setdefault(key, []).append(index)
    return ((key, indices) for key, indices in seen.items() if len(indices) > 1)


def _listed(section: str, indices: list[int], where: Where) -> tuple[Place, str]:
    """The place of the second of several entries, and all of them as seen from there."""
    places = [where((section, index)) for index in indices]
    return places[1], ", ".join(place.seen_from(places[1]) for place in places)


def _same_name(tunnels: Tunnels, where: Where) -> Iterator[Refusal]:
    for name, indices in _groups((i, tunnel.name) for i, tunnel in enumerate(tunnels) if tunnel):
        place, listed = _listed("tunnel", indices, where)
        count = "two" if len(indices) == 2 else str(len(indices))
        yield place, f'{count} tunnels are named "{name}" ({listed}): give one of them another name = "..."'


def _stand_ins(tunnels: Tunnels, where: Where) -> Iterator[Refusal]:
    named = {stand_in_name(tunnel.name): index for index, tunnel in reversed(list(enumerate(tunnels))) if tunnel}
    for index, tunnel in enumerate(tunnels):
        if tunnel and (other := named.get(tunnel.name)) is not None:
            place = where(("tunnel", index, "name"))
            first = where(("tunnel", other)).seen_from(place)
            yield place, f'found "{tunnel.name}", as the link is called that replaces another ({first}): write another'


def _same_key(tunnels: Tunnels, where: Where) -> Iterator[Refusal]:
    # Out of UDP all is alike, so it is the port that tells GUE and FOU apart.
    kinds = ((i, t, "udp" if t.port else t.encapsulation) for i, t in enumerate(tunnels) if t)
    # In another VRF "auto" is another address.
    keys = (
        (i, (kind, t.version, t.local, t.vrf if t.local == AUTO else None, _gre_key(t), t.port))
        for i, t, kind in kinds
        if t.encapsulation not in BARE
    )
    for _, indices in _groups(keys):
        these = [tunnel for index in indices if (tunnel := tunnels[index])]
        first = these[0]
        place, listed = _listed("tunnel", indices, where)
        more = f" and key {first.key}" if first.key is not None else f" and port {first.port}" if first.port else ""
        other = {"ipip": "another local", "gre": "another local or key"}.get(
            first.encapsulation, "another local or port"
        )
        names = list(dict.fromkeys(tunnel.encapsulation for tunnel in these))
        alike = len(names) == 1 and len({tunnel.key for tunnel in these}) == 1
        one = "write one [[tunnel]] with the load balancers of all of them, or " if alike else ""
        if not any(tunnel.load_balancers for tunnel in these) and first.version == 4:  # "any" does not say which
            one = "for IPv6 outside write an IPv6 address of this host as the local of one, or "
        yield (
            place,
            (
                f'the kernel can hold only one {" or ".join(names)} tunnel with local "{first.local}"{more} '
                f"({listed}): {one}give one of them {other}"
            ),
        )


def _gre_key(tunnel: TunnelSettings) -> int | None:
    """The key as the kernel compares it: over IPv6 it takes 0 for none (net/ipv6/ip6_gre.c, ip6gre_tunnel_find)."""
    return tunnel.key if tunnel.version == 4 else tunnel.key or None


def _single_balancers(tunnels: Tunnels) -> dict[Ip, KeyPath]:
    """The load balancers that are declared as one address, and where."""
    found: dict[Ip, KeyPath] = {}
    for index, tunnel in enumerate(tunnels):
        for entry, network in enumerate(tunnel.load_balancers if tunnel else ()):
            if network.prefixlen == network.max_prefixlen:
                found.setdefault(network.network_address, ("tunnel", index, "load_balancers", entry))
    return found


def _own_balancer(tunnels: Tunnels, where: Where) -> Iterator[Refusal]:
    balancers = _single_balancers(tunnels)
    for index, tunnel in enumerate(tunnels):
        if tunnel and not isinstance(tunnel.local, str) and tunnel.local in balancers:
            place = where(("tunnel", index, "local"))
            balancer = where(balancers[tunnel.local]).seen_from(place)
            yield place, f'found "{tunnel.local}", a load balancer too ({balancer}): write an address of this host'


def _same_vip(vips: Vips, where: Where) -> Iterator[Refusal]:
    addresses: dict[Ip, int] = {}
    names: dict[str, int] = {}
    for index, vip in enumerate(vips):
        if vip is None:
            continue
        first = addresses.setdefault(vip.address, index)
        if first != index:
            place = where(("vip", index, "address"))
            before = where(("vip", first)).seen_from(place)
            yield place, f"{vip.address} is a VIP already ({before}): remove one of them"
            continue
        if (named := _address_in(vip.name)) and named != vip.address:
            place = where(("vip", index, "name"))
            yield place, f'found "{vip.name}", another address than its own: write a word, e.g. "radius"'
            continue
        first = names.setdefault(vip.name, index)
        if first != index:
            place = where(("vip", index, "name"))
            before = where(("vip", first)).seen_from(place)
            yield place, f'two VIPs are named "{vip.name}" ({before}): give one of them another name'


def _address_in(name: str) -> Ip | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _vip_of_a_host(tunnels: Tunnels, vips: Vips, where: Where) -> Iterator[Refusal]:
    locals_: dict[Ip, KeyPath] = {}
    for index, tunnel in enumerate(tunnels):
        if tunnel and not isinstance(tunnel.local, str):
            locals_.setdefault(tunnel.local, ("tunnel", index, "local"))
    balancers = _single_balancers(tunnels)
    for index, vip in enumerate(vips):
        if vip is None or not (vip.address in locals_ or vip.address in balancers):
            continue
        place = where(("vip", index, "address"))
        taken = where(locals_.get(vip.address) or balancers[vip.address]).seen_from(place)
        whose = "an address of this host" if vip.address in locals_ else "the address of a load balancer"
        yield place, f'found "{vip.address}", {whose} ({taken}): write the address that clients send to'


def _unknown_tunnels(vips: Vips, where: Where, names: Set[str]) -> Iterator[Refusal]:
    known = sorted(names)[:SHOWN]
    for index, vip in enumerate(vips):
        for entry, name in enumerate((vip and vip.tunnels) or ()):
            if name in names:
                continue
            near = closest(name, known)
            instead = f'did you mean "{near}"?' if near else "there is none at all"
            if names and not near:
                instead = f"there is {', '.join(known)}" + (" and more" if len(names) > SHOWN else "")
            yield where(("vip", index, "tunnels", entry)), f"no tunnel is named {show(name)}: {instead}"
