"""What is legal and suspicious in the file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.config.origins import Origins
from dsr_agent.config.settings import Settings, VipSettings
from dsr_agent.config.wording import show

SHOWN = 3


def doubts(settings: Settings, origins: Origins) -> Iterator[str]:
    """One line for each kind of doubt and source, however many VIPs it is about."""
    for index, tunnel in enumerate(settings.tunnel):
        if not tunnel.load_balancers:
            place = origins.place(("tunnel", index, "load_balancers"), lines=False)
            yield (
                f'{place}: "any": whoever can reach this host may send through {tunnel.name}, '
                "under any client's address"
            )
    if settings.tunnel and not settings.guard.enabled:
        place = origins.place(("guard", "enabled"), lines=False)
        yield f"{place}: false: whoever can reach this host may send through its tunnels, under any client's address"
    encapsulations = {tunnel.name: tunnel.encapsulation for tunnel in settings.tunnel}
    every = tuple(encapsulations)
    alone: list[VipSettings] = []
    unreachable: list[VipSettings] = []
    for vip in settings.vip:
        through = every if vip.tunnels is None else vip.tunnels
        if not through:
            alone.append(vip)
        elif vip.address.version == 6 and all(encapsulations[name] == "ipip" for name in through):
            unreachable.append(vip)
    if alone:
        yield f"{_counted(alone)} no tunnel: requests must reach this host some other way"
    if unreachable:
        yield (
            f"{_counted(unreachable)} only ipip tunnels, which carry IPv4 alone in this version: "
            "declare a gre tunnel for IPv6"
        )

    for index, check in enumerate(settings.check):
        if not any(check.concerns(vip.address, vip.name, vip.services) for vip in settings.vip):
            place = origins.place(("check", index), lines=False)
            what = f'no VIP declares "{check.service}"' if check.service else "there is no VIP"
            yield f"{place}: {what}, so nothing is checked: write it into the services of a [[vip]], or give vips here"


def _counted(vips: list[VipSettings]) -> str:
    shown = ", ".join(
        str(vip.address) if vip.name == str(vip.address) else f"{vip.address} {show(vip.name)}" for vip in vips[:SHOWN]
    )
    more = f" and {len(vips) - SHOWN} more" if len(vips) > SHOWN else ""
    return f"{shown}{more}: {'this VIP has' if len(vips) == 1 else 'these VIPs have'}"
