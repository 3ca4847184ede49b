"""From which address of this host the applications are asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from dsr_agent.config.desired import SCOPE_GLOBAL
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.service.overview import Overview
from dsr_agent.state.marks import TUNNEL_ADDRESS
from dsr_agent.state.model import Address, Ip, Vip
from dsr_agent.state.vrfs import vrf_of

_LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


class Sources:
    """
    This host's own addresses, as one overview has them, those in VRFs apart.

    Never a VIP: what comes from the VIP itself is answered from the VIP, whatever the application does. Without any own
    address it is asked from the loopback one, which shows as much.
    """

    def __init__(self, overview: Overview) -> None:
        carried = resolve(overview.desired, overview.observed).carried
        self._locals: Mapping[str, Ip] = {
            item.tunnel.name: item.link.outer.local
            for item in carried
            if item.link.outer and item.link.outer.local is not None and item.arrives_in == item.tunnel.vrf
        }
        vips = overview.desired.key_of_ip
        self._own: dict[tuple[int, str], Ip] = {}
        for address in _in_order(overview.observed.addresses.values()):
            if address.ip not in vips:
                vrf = vrf_of(address.link, overview.observed.links)
                self._own.setdefault((address.ip.version, vrf), address.ip)

    def of(self, vip: Vip) -> Ip:
        """Where tunnelled packets for *vip* arrive; if that is another version of IP, an address that is not."""
        for tunnel in vip.tunnels:
            local = self._locals.get(tunnel)
            if local is not None and local.version == vip.ip.version:
                return local
        return self._own.get((vip.ip.version, vip.vrf), _LOOPBACK[vip.ip.version])


def _in_order(addresses: Iterable[Address]) -> list[Address]:
    """Those that the host uses for itself, always in the same order."""
    usable = [each for each in addresses if each.scope == SCOPE_GLOBAL and not each.deprecated and each.link != "lo"]
    usable = [each for each in usable if not (each.ip.is_link_local or each.ip.is_loopback)]
    return sorted((each for each in usable if each.ip != TUNNEL_ADDRESS), key=lambda each: (each.link, int(each.ip)))
