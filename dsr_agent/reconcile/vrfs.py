"""In which VRF tunnels and VIPs are to be, and what is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import DsrError, NotYet, Undecided
from dsr_agent.state.model import Desired, Ip, LinkKey, Observed, Tunnel, TunnelKey
from dsr_agent.state.vrfs import KIND, vrf_of


def where_it_arrives(local: Ip, observed: Observed) -> str:
    """The VRF in which packets to *local* arrive: that of the link which has it."""
    holders = (key.link for key in observed.addresses if key.ip == local)
    return next(filter(None, (vrf_of(name, observed.links) for name in holders)), "")


def lacking(tunnel: Tunnel, observed: Observed) -> DsrError | None:
    """Why *tunnel* cannot be put into its VRF; None if it can."""
    if not tunnel.vrf:
        return None
    link = observed.links.get(tunnel.vrf)
    if link is None:
        how = f"ip link add {tunnel.vrf} type vrf table NUMBER && ip link set {tunnel.vrf} up"
        return NotYet(f"its VRF {tunnel.vrf} is not there (yet)", how)
    if link.kind != KIND:
        kind = link.kind or "another kind of link"
        return Undecided(f"{tunnel.vrf} is no VRF ({kind})", "write vrf with the name of one (ip link show type vrf)")
    return None


def problems(desired: Desired, observed: Observed) -> Iterator[Problem]:
    """VRFs that are down, and links of VIPs that are not where the requests are."""
    for name, tunnel in desired.tunnels.items():
        link = observed.links.get(tunnel.vrf)
        if link and link.kind == KIND and not link.up:
            text = f"its VRF {tunnel.vrf} is down, so nothing is accepted in it"
            yield Problem(TunnelKey(name), NotYet(text, f"ip link set {tunnel.vrf} up"))
    for device, vrf in sorted(desired.vrfs_of_devices):
        if device == vrf or device not in observed.links or (vrf and vrf not in observed.links):
            continue  # told of the tunnel, or as missing
        found = vrf_of(device, observed.links)
        if found != vrf:
            yield Problem(LinkKey(device), _elsewhere(device, vrf, found))


def _elsewhere(device: str, vrf: str, found: str) -> DsrError:
    where = "a VRF" if device == found else f"in VRF {found}" if found else "in no VRF"
    asked = f"come out in VRF {vrf}" if vrf else "come out in none"
    text = f"{device} is {where}, and the requests for its VIPs {asked}, so they are not accepted"
    if vrf:
        return Undecided(text, f"ip link set {device} master {vrf}, or remove device from the [[vip]]")
    out = "" if device == found else f", or ip link set {device} nomaster"
    return Undecided(text, f'write vrf = "{found}" in their [[tunnel]]{out}')
