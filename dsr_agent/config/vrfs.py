"""What tunnels and VIPs say about VRFs, held against each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dsr_agent.config.origins import Place
from dsr_agent.config.settings import TunnelSettings, VipSettings
from dsr_agent.config.values import AUTO
from dsr_agent.config.wording import KeyPath
from dsr_agent.state.model import BARE

Where = Callable[[KeyPath], Place]


def disagreements(
    tunnels: Sequence[TunnelSettings | None], vips: Sequence[VipSettings | None], where: Where
) -> Iterator[tuple[Place, str]]:
    """Everything about VRFs that cannot be. *tunnels* and *vips* that could not be read are None."""
    if any(tunnel and tunnel.vrf for tunnel in tunnels):
        yield from _named_like_one(tunnels, where)
        yield from _one_link(tunnels, where)
        yield from _devices(tunnels, vips, where)


def _named_like_one(tunnels: Sequence[TunnelSettings | None], where: Where) -> Iterator[tuple[Place, str]]:
    """A tunnel whose link would have the name of the VRF that is to be there."""
    vrfs = {tunnel.vrf: index for index, tunnel in reversed(list(enumerate(tunnels))) if tunnel and tunnel.vrf}
    for index, tunnel in enumerate(tunnels):
        if tunnel and tunnel.name in vrfs and tunnel.encapsulation not in BARE:
            place = where(("tunnel", index, "name"))
            vrf = where(("tunnel", vrfs[tunnel.name], "vrf")).seen_from(place)
            yield place, f'found "{tunnel.name}", which is the name of a VRF ({vrf}): write another'


def _one_link(tunnels: Sequence[TunnelSettings | None], where: Where) -> Iterator[tuple[Place, str]]:
    """IP in IP and what comes out of UDP come out of one link for each local address, and that is in one VRF."""
    first: dict[object, int] = {}
    for index, tunnel in enumerate(tunnels):
        if tunnel is None or tunnel.local == AUTO or not (tunnel.encapsulation == "ipip" or tunnel.port):
            continue
        other = tunnels[first.setdefault(tunnel.local, index)]
        # Of the same port, or of none, one link is all that there can be in one VRF, too: that is said elsewhere.
        if other and other.vrf != tunnel.vrf and other.port != tunnel.port:
            place = where(("tunnel", index, "vrf" if tunnel.vrf else "local"))
            before = where(("tunnel", first[tunnel.local])).seen_from(place)
            yield (
                place,
                f"its packets come out of one link with those of {other.name} ({before}), which is "
                f"{_in(other.vrf or '')}: write the same vrf for both, or give one of them another local",
            )


def _devices(
    tunnels: Sequence[TunnelSettings | None], vips: Sequence[VipSettings | None], where: Where
) -> Iterator[tuple[Place, str]]:
    """VIPs that no one device can serve: an address is accepted in the VRF of its device, and nowhere else."""
    readable = [tunnel for tunnel in tunnels if tunnel]
    vrf_of = {tunnel.name: tunnel.vrf or "" for tunnel in readable}
    unmarked = [tunnel.name for tunnel in readable if tunnel.encapsulation != "dscp"]
    for index, vip in enumerate(vips):
        if vip is None:
            continue
        every = unmarked if vip.dscp is None else list(vrf_of)
        names = [name for name in (every if vip.tunnels is None else vip.tunnels) if name in vrf_of]
        found = list(dict.fromkeys(vrf_of[name] for name in names))
        if len(found) > 1:
            at: KeyPath = ("vip", index, "address" if vip.tunnels is None else "tunnels")
            shown = ", ".join(f"{name} {_in(vrf_of[name])}" for name in names)
            one = ", ".join(f'"{name}"' for name in names if vrf_of[name] == found[0])
            yield (
                where(at),
                f"its tunnels are in different VRFs ({shown}), and a VIP is in one: write tunnels = [{one}]",
            )
        elif found and found[0] and vip.device == "lo":
            wanted = f'write device = "{found[0]}", or remove this line'
            yield where(("vip", index, "device")), f'found "lo", which is outside of VRF {found[0]}: {wanted}'


def _in(vrf: str) -> str:
    return f"in {vrf}" if vrf else "in none"
