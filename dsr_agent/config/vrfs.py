"""What tunnels and VIPs say about VRFs, held against each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dsr_agent.config.origins import Place
from dsr_agent.config.settings import TunnelSettings, VipSettings
from dsr_agent.config.wording import KeyPath

Where = Callable[[KeyPath], Place]


def disagreements(
    tunnels: Sequence[TunnelSettings | None], vips: Sequence[VipSettings | None], where: Where
) -> Iterator[tuple[Place, str]]:
    """
    VIPs that no one device can serve: an address is accepted in the VRF of its device, and nowhere else.

    *tunnels* and *vips* that could not be read are None.
    """
    readable = [tunnel for tunnel in tunnels if tunnel]
    vrf_of = {tunnel.name: tunnel.vrf or "" for tunnel in readable}
    if not any(vrf_of.values()):
        return
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
