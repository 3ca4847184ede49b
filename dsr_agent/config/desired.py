"""What the file means in kernel terms. Pure: the host is not asked."""

from __future__ import annotations

from collections.abc import Mapping

from dsr_agent.config import values
from dsr_agent.config.settings import GuardSettings, Settings, TunnelSettings, VipSettings
from dsr_agent.state import marks
from dsr_agent.state.local import Local, LocalAddress, LocalEvery, LocalOf, LocalTowards
from dsr_agent.state.model import BARE, Address, Desired, Ip, Network, Tunnel, Vip
from dsr_agent.state.table import GuardPolicy

SCOPE_HOST = 254
SCOPE_GLOBAL = 0


def desired(settings: Settings) -> Desired:
    """
    The tunnels by name, and the VIPs with the address that each comes to, by the kernel's key.

    Every VIP has exactly one address.
    """
    marked = frozenset(tunnel.name for tunnel in settings.tunnel if tunnel.encapsulation == "dscp")
    every = tuple(tunnel.name for tunnel in settings.tunnel)
    without = tuple(name for name in every if name not in marked)
    vrf_of = {tunnel.name: tunnel.vrf or "" for tunnel in settings.tunnel}
    vips = [_vip(vip, without if vip.dscp is None else every, vrf_of) for vip in settings.vip]
    return Desired(
        tunnels={tunnel.name: _tunnel(tunnel) for tunnel in settings.tunnel},
        vips={vip.key: vip for vip in vips},
        addresses={vip.key: address_of(vip) for vip in vips},
        silence_arp=settings.agent.arp == "auto",
        guard=_guard(settings.guard),
        fallback_devices=settings.guard.fallback_devices,
    )


def address_of(vip: Vip) -> Address:
    """
    What the kernel must hold for *vip*: marked as ours, and never chosen as a source for the host's own traffic.

    For IPv4 the scope says so (host scope: no source for what leaves the host), for IPv6 the preferred lifetime of 0.
    Replies of the application do not choose: they leave with the address the request came to.
    """
    ipv4 = vip.ip.version == 4
    return Address(
        link=vip.device,
        ip=vip.ip,
        prefixlen=vip.ip.max_prefixlen,
        scope=SCOPE_HOST if ipv4 else SCOPE_GLOBAL,
        proto=marks.ADDRESS_PROTO,
        label=marks.label_for(vip.device) if ipv4 else "",
        permanent=True,
        deprecated=not ipv4,
    )


def _guard(guard: GuardSettings) -> GuardPolicy | None:
    if not guard.enabled:
        return None
    said = {"auto": None, "off": 0}.get(guard.mss) if isinstance(guard.mss, str) else guard.mss
    return GuardPolicy(required=guard.required, services=guard.services, mss=said)


def _vip(vip: VipSettings, names: tuple[str, ...], vrf_of: Mapping[str, str]) -> Vip:
    tunnels = names if vip.tunnels is None else vip.tunnels
    vrf = next((vrf_of[name] for name in tunnels), "")  # all of them are in the same one: see `agreement`
    return Vip(
        ip=vip.address,
        name=vip.name,
        device=vip.device or vrf or "lo",
        tunnels=tunnels,
        services=vip.services,
        dscp=vip.dscp,
        vrf=vrf,
    )


def _tunnel(tunnel: TunnelSettings) -> Tunnel:
    return Tunnel(
        name=tunnel.name,
        encapsulation=tunnel.encapsulation,
        local=_local(tunnel),
        load_balancers=tunnel.load_balancers,
        key=tunnel.key,
        checksum=tunnel.checksum,
        version=tunnel.version,
        port=tunnel.port,
        vrf=tunnel.vrf or "",
    )


def _local(tunnel: TunnelSettings) -> Local:
    if not isinstance(tunnel.local, str):
        return LocalAddress(tunnel.local)
    if tunnel.local == values.AUTO and tunnel.encapsulation in BARE:
        return LocalEvery()
    if tunnel.local == values.AUTO:
        # Overlapping prefixes may share their first address; asking the kernel once is enough.
        return LocalTowards(tuple(dict.fromkeys(first_host(network) for network in tunnel.load_balancers)))
    return LocalOf(tunnel.local)


def first_host(network: Network) -> Ip:
    """The first address of *network* that a host can have (where there are one or two: the first there is)."""
    return network.network_address + (1 if network.prefixlen < network.max_prefixlen - 1 else 0)
