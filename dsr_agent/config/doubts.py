"""What is legal and suspicious in the file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.config.origins import Origins
from dsr_agent.config.settings import Settings, VipSettings
from dsr_agent.config.wording import show
from dsr_agent.state.model import BARE

SHOWN = 3

# LE, CS1 to CS7, AF11 to AF43, VOICE-ADMIT and EF (RFC 8622, 2474, 2597, 5865, 3246).
_COMMON = frozenset({1, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 44, 46, 48, 56})


def doubts(settings: Settings, origins: Origins) -> Iterator[str]:
    """One line for each kind of doubt and source, however many VIPs it is about."""
    for index, tunnel in enumerate(settings.tunnel):
        if tunnel.encapsulation == "dscp":
            place = origins.place(("tunnel", index, "encapsulation"), lines=False)
            yield (
                f'{place}: "dscp": whoever can reach this host may send to the VIPs of {tunnel.name} by their code '
                "points: clear DSCP at the edge of the network"
            )
        elif tunnel.encapsulation == "l2" and settings.agent.arp == "ignore":
            place = origins.place(("agent", "arp"), lines=False)
            yield f'{place}: "ignore": this host may answer ARP for the VIPs of {tunnel.name} in the balancer\'s place'
        elif not tunnel.load_balancers and tunnel.encapsulation not in BARE:
            place = origins.place(("tunnel", index, "load_balancers"), lines=False)
            yield (
                f'{place}: "any": whoever can reach this host may send through {tunnel.name}, '
                "under any client's address"
            )
    if any(tunnel.encapsulation not in BARE for tunnel in settings.tunnel) and not settings.guard.enabled:
        place = origins.place(("guard", "enabled"), lines=False)
        yield f"{place}: false: whoever can reach this host may send through its tunnels, under any client's address"
    yield from _never_marked(settings, origins)
    yield from _served_at_the_port(settings, origins)
    alone = [vip for vip in settings.vip if not (settings.tunnel if vip.tunnels is None else vip.tunnels)]
    if alone:
        yield f"{_counted(alone)} no tunnel: requests must reach this host some other way"
    if common := [vip for vip in settings.vip if vip.dscp in _COMMON]:
        yield (
            f"{_counted(common)} a code point that programs use by themselves (SSH, voice, routing): their packets to "
            "this host's own address would go to the VIP; write another one, e.g. dscp = 7"
        )

    for index, check in enumerate(settings.check):
        if not any(check.concerns(vip.address, vip.name, vip.services) for vip in settings.vip):
            place = origins.place(("check", index), lines=False)
            what = f'no VIP declares "{check.service}"' if check.service else "there is no VIP"
            yield f"{place}: {what}, so nothing is checked: write it into the services of a [[vip]], or give vips here"


def _never_marked(settings: Settings, origins: Origins) -> Iterator[str]:
    """A tunnel that looks for code points, and VIPs none of which is known by one."""
    meant = {name for vip in settings.vip if vip.dscp is not None for name in _tunnels_of(vip, settings)}
    for index, tunnel in enumerate(settings.tunnel):
        if tunnel.encapsulation == "dscp" and settings.vip and tunnel.name not in meant:
            place = origins.place(("tunnel", index), lines=False)
            why = f"no VIP of {tunnel.name} has a code point, so nothing comes by it"
            yield f"{place}: {why}: write dscp = 7 in a [[vip]]"


def _served_at_the_port(settings: Settings, origins: Origins) -> Iterator[str]:
    """A tunnel's UDP port that is a service, too: whoever listens at all addresses has the tunnel's as well."""
    for index, tunnel in enumerate(settings.tunnel):
        found = [vip for vip in settings.vip if tunnel.port and f"udp/{tunnel.port}" in vip.services]
        if found:
            place = origins.place(("tunnel", index, "port"), lines=False)
            yield (
                f"{place}: {tunnel.port} is a service of VIP {found[0].address}, too: an application that listens at "
                "all addresses cannot have it beside the tunnel: let it listen at the VIP, or write another port"
            )


def _tunnels_of(vip: VipSettings, settings: Settings) -> tuple[str, ...]:
    return tuple(tunnel.name for tunnel in settings.tunnel) if vip.tunnels is None else vip.tunnels


def _counted(vips: list[VipSettings]) -> str:
    shown = ", ".join(
        str(vip.address) if vip.name == str(vip.address) else f"{vip.address} {show(vip.name)}" for vip in vips[:SHOWN]
    )
    more = f" and {len(vips) - SHOWN} more" if len(vips) > SHOWN else ""
    return f"{shown}{more}: {'this VIP has' if len(vips) == 1 else 'these VIPs have'}"
