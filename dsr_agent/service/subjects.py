"""What a key is about, in the words of the file: which sort of thing, which VIP, which tunnel. Pure."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address

from dsr_agent.state.marks import TUNNEL_ADDRESS, stand_in_name
from dsr_agent.state.model import (
    AddressKey,
    Desired,
    GuardKey,
    HostKey,
    Key,
    LinkKey,
    ModuleKey,
    RoutesKey,
    Scope,
    SysctlKey,
    TunnelKey,
)
from dsr_agent.state.ports import PortKey


class SubjectSort(StrEnum):
    """The sorts of things that can be other than the file says."""

    VIP = "vip"
    TUNNEL = "tunnel"
    TUNNEL_ADDRESS = "tunnel_address"
    DEVICE = "device"
    SYSCTL = "sysctl"
    MODULE = "module"
    GUARD = "guard"
    HOST = "host"


def sort_of(key: Key, desired: Desired) -> SubjectSort:
    """What sort of thing *key* is."""
    if isinstance(key, AddressKey):
        return SubjectSort.TUNNEL_ADDRESS if key.ip == TUNNEL_ADDRESS else SubjectSort.VIP
    if isinstance(key, TunnelKey | PortKey):
        return SubjectSort.TUNNEL
    if isinstance(key, LinkKey):
        return SubjectSort.DEVICE if key.name in desired.devices else SubjectSort.TUNNEL
    if isinstance(key, SysctlKey):
        return SubjectSort.SYSCTL
    if isinstance(key, ModuleKey):
        return SubjectSort.MODULE
    if isinstance(key, GuardKey):
        return SubjectSort.GUARD
    assert isinstance(key, HostKey | RoutesKey)
    return SubjectSort.HOST


def tunnel_of(key: Key, desired: Desired) -> str | None:
    """The tunnel that *key* belongs to, by the name of its link (an adopted link keeps a name of its own)."""
    name: str | None = None
    if isinstance(key, TunnelKey | LinkKey) and sort_of(key, desired) is SubjectSort.TUNNEL:
        name = key.name
    elif isinstance(key, AddressKey) and key.ip == TUNNEL_ADDRESS:
        name = key.link
    elif isinstance(key, PortKey):
        at = ((tunnel.port, tunnel.version, name) for name, tunnel in desired.tunnels.items())
        name = next((name for *place, name in at if place == [key.number, key.version]), None)
    elif isinstance(key, SysctlKey):
        parts = key.path.split("/")
        name = next((part for part in parts[3:4] if part in desired.tunnels or _stands_in(part, desired)), None)
    return _stands_in(name, desired) or name if name else None


def _stands_in(link: str, desired: Desired) -> str | None:
    return next((name for name in desired.tunnels if stand_in_name(name) == link), None)


def looked_at(key: Key, scope: Scope) -> bool:
    """Whether a pass over *scope* can say that all is well with *key*; one that looked elsewhere cannot."""
    if scope.everything or key in scope.addresses:
        return True
    return scope.host and not (isinstance(key, AddressKey) and key.ip != TUNNEL_ADDRESS)


def find_vip(desired: Desired, name: str) -> AddressKey | None:
    """The VIP of that address or name; an address in any spelling wins."""
    try:
        ip = ip_address(name)
    except ValueError:
        ip = None
    if ip and ip in desired.key_of_ip:
        return desired.key_of_ip[ip]
    return next((key for key, vip in desired.vips.items() if vip.name == name), None)
