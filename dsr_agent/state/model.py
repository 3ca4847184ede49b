"""
The nouns: what an operator declares, what the kernel holds, and the keys both are compared by.

A client's request reaches this host wrapped in an outer header. A *tunnel* (a link that decapsulates) strips it, the
*VIP* on a local device makes the host accept the inner packet, and the reply leaves by the ordinary route. Everything
here is a value: frozen, comparable, printable. Keys are the kernel's own keys, so that desired and observed are two
maps that can simply be held against each other; an ifindex is never a key, because a link is recreated under the
same name with a new index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple, TypeAlias

from dsr_agent.state.errors import DsrError
from dsr_agent.state.local import Local, Towards
from dsr_agent.state.outer import MODULE_OF_KIND as MODULE_OF_KIND  # noqa: PLC0414  so that all nouns are found here
from dsr_agent.state.outer import Outer as Outer  # noqa: PLC0414
from dsr_agent.state.ports import PortKey, UdpPort
from dsr_agent.state.table import GuardPolicy, ObservedGuard

Ip: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


class AddressKey(NamedTuple):
    """Which address: the kernel keys addresses by link and prefix. A plain tuple, because there are 10,000 of them."""

    link: str
    ip: Ip
    prefixlen: int

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefixlen} on {self.link}"


@dataclass(frozen=True, slots=True)
class LinkKey:
    """Which link, by name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SysctlKey:
    """Which sysctl: its path below ``/proc/sys``, with slashes, because link names may contain dots."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class ModuleKey:
    """Which kernel module."""

    name: str

    def __str__(self) -> str:
        return f"module {self.name}"


@dataclass(frozen=True, slots=True)
class TunnelKey:
    """Which tunnel of the file, by its name there (its link may be called otherwise when it was adopted)."""

    name: str

    def __str__(self) -> str:
        return f"tunnel {self.name}"


@dataclass(frozen=True, slots=True)
class RoutesKey:
    """The routes and routing rules, all of them: what they say is asked for target by target."""

    def __str__(self) -> str:
        return "routes"


@dataclass(frozen=True, slots=True)
class HostKey:
    """This host as a whole: what is not about any one thing on it."""

    def __str__(self) -> str:
        return "this host"


@dataclass(frozen=True, slots=True)
class GuardKey:
    """The guard's table, the whole of it: the packet filter takes it as one transaction."""

    def __str__(self) -> str:
        return "guard"


ROUTES = RoutesKey()
THIS_HOST = HostKey()
GUARD = GuardKey()

Key: TypeAlias = HostKey | RoutesKey | GuardKey | AddressKey | LinkKey | SysctlKey | ModuleKey | TunnelKey | PortKey


# --- what the operator declares -----------------------------------------------------------------------------------


# Sent without an outer header, so that no link decapsulates it and nobody can tell which balancer it was: to an address
# of this host with the VIP's code point, or to this host's MAC address with nothing changed.
BARE = frozenset({"dscp", "l2"})


@dataclass(frozen=True, slots=True)
class Tunnel:
    """
    One way in: an encapsulation, the address it arrives at, and who may send it.

    *load_balancers* is empty when the file says ``"any"``. *version* is that of the outer IP header. *vrf* is the VRF
    in which the requests are, and whose routes lead to the load balancers; empty for none.
    """

    name: str
    encapsulation: str
    local: Local
    load_balancers: tuple[Network, ...] = ()
    key: int | None = None
    checksum: bool = False
    version: int = 4
    port: int | None = None
    vrf: str = ""

    @property
    def bare(self) -> bool:
        """Whether no link carries it, because there is nothing to decapsulate."""
        return self.encapsulation in BARE


@dataclass(frozen=True, slots=True)
class Vip:
    """
    One virtual address, and the device that makes this host accept it.

    *dscp* is the code point that stands for it on the way here, where a balancer sends by that. *vrf* is that of its
    tunnels.
    """

    ip: Ip
    name: str
    device: str = "lo"
    tunnels: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    dscp: int | None = None
    vrf: str = ""

    @property
    def key(self) -> AddressKey:
        return AddressKey(self.device, self.ip, self.ip.max_prefixlen)


# --- what the kernel holds ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """
    A network device. *outer* is there for tunnel kinds only; *answers_arp* for what speaks ARP on a segment.

    *master* is the link that it belongs to: a VRF, a bridge, a bond. *carrier*: somebody is at the other end.
    """

    name: str
    kind: str = ""
    up: bool = False
    group: int = 0
    alias: str = ""
    outer: Outer | None = None
    answers_arp: bool = False
    master: str = ""
    mtu: int = field(default=0, compare=False)
    carrier: bool = field(default=True, compare=False)

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.name)

    def __str__(self) -> str:
        words = [self.name, self.kind or "link"]
        if self.outer:
            words.append(str(self.outer))
        if self.master:
            words.append(f"master {self.master}")
        words.append("up" if self.up else "down")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Address:
    """
    An address on a link.

    *proto* is ``IFA_PROTO`` (0 where the kernel is older than 5.18), *label* the IPv4 alias label. *permanent* is
    false when it will expire; *deprecated* keeps it from being chosen as a source (preferred lifetime 0).
    """

    link: str
    ip: Ip
    prefixlen: int
    scope: int = 0
    proto: int = 0
    label: str = ""
    permanent: bool = True
    deprecated: bool = False

    @property
    def key(self) -> AddressKey:
        return AddressKey(self.link, self.ip, self.prefixlen)

    def __str__(self) -> str:
        return str(self.key)


@dataclass(frozen=True, slots=True)
class Sysctl:
    """
    A wanted sysctl: exactly *value*, or (*at_least*) not lower than it.

    *at_least* is for links that are not ours: their value is raised if need be, never lowered.
    """

    path: str
    value: int
    at_least: bool = False

    @property
    def key(self) -> SysctlKey:
        return SysctlKey(self.path)

    def satisfied_by(self, found: int) -> bool:
        return found >= self.value if self.at_least else found == self.value


# --- the two maps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Desired:
    """
    What the file means. *addresses* are the VIPs by the kernel's key.

    Tunnels stay in the operator's words, because what they come to (``local = "auto"``, the name of an adopted link)
    can only be said in front of what the host holds: `reconcile.resolve` does that. What is asked of it in every
    pass is worked out once, because there may be 10,000 VIPs.
    """

    tunnels: Mapping[str, Tunnel] = field(default_factory=dict)
    vips: Mapping[AddressKey, Vip] = field(default_factory=dict)
    addresses: Mapping[AddressKey, Address] = field(default_factory=dict)
    silence_arp: bool = True
    guard: GuardPolicy | None = None
    """None: the file wants no guard."""
    fallback_devices: str = "ignore"
    """What to do with one that is up: take it "down", "ignore" it, or ("auto") spare it if it has an address."""
    held: frozenset[Ip] = frozenset()
    """VIPs of the file that somebody has taken in hand: left as they are, there or not, wherever they are."""

    def holding(self, ips: Collection[Ip]) -> Desired:
        """The same, with those of its VIPs held that are among *ips*, and no others."""
        held = frozenset(ip for ip in ips if ip in self.key_of_ip)
        return self if held == self.held else replace(self, held=held)

    @cached_property
    def linked(self) -> Mapping[str, Tunnel]:
        """The tunnels that a link carries."""
        return {name: tunnel for name, tunnel in self.tunnels.items() if not tunnel.bare}

    @cached_property
    def key_of_ip(self) -> Mapping[Ip, AddressKey]:
        """Where each VIP is to be; the file says each once."""
        return {key.ip: key for key in self.vips}

    @cached_property
    def ip_versions(self) -> tuple[int, ...]:
        """Of the VIPs."""
        return tuple(sorted({key.ip.version for key in self.vips}))

    @cached_property
    def devices(self) -> frozenset[str]:
        """The links that VIPs are on; nobody needs those of VIPs that are held."""
        return frozenset(key.link for key in self.vips if key.ip not in self.held)

    @cached_property
    def some_are_bound(self) -> bool:
        """Whether some VIP is not for all tunnels that a link carries."""
        every = frozenset(self.linked)
        return any(not every.issubset(vip.tunnels) for vip in self.vips.values())

    @cached_property
    def vrfs_of_devices(self) -> frozenset[tuple[str, str]]:
        """Each link that VIPs are on, with the VRF (empty: none) in which their tunnels leave their requests."""
        return frozenset((key.link, vip.vrf) for key, vip in self.vips.items() if vip.tunnels)

    @cached_property
    def ipv6_tunnels(self) -> frozenset[str]:
        """The tunnels that some IPv6 VIP expects its requests from."""
        return frozenset(name for vip in self.vips.values() if vip.ip.version == 6 for name in vip.tunnels)

    @cached_property
    def ipv4_neighbours(self) -> tuple[int, ...]:
        """Every IPv4 VIP and, if there is one, every IPv4 load balancer's (first) address, as sorted numbers."""
        vips = {int(ip) for ip in self.key_of_ip if ip.version == 4}
        networks = [network for tunnel in self.tunnels.values() for network in tunnel.load_balancers]
        senders = {int(network.network_address) for network in networks if network.version == 4}
        return tuple(sorted(vips | senders)) if vips else ()


@dataclass(frozen=True, slots=True)
class Observed:
    """
    What was read back from the kernel.

    *sources* says which address the host uses towards a target; a target without a route is not in it.
    A sysctl that does not exist (IPv6 switched off, say) is not in *sysctls*. *modules* are those loaded or built in.
    *keeps_proto* is false on kernels older than 5.18, which take an address's `IFA_PROTO` and forget it.
    *obstacles* say of modules that are missing and needed why they cannot be had, where that is known beforehand.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: Mapping[AddressKey, Address] = field(default_factory=dict)
    sysctls: Mapping[SysctlKey, int] = field(default_factory=dict)
    sources: Mapping[Towards, Ip] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    keeps_proto: bool = True
    guard: ObservedGuard = field(default_factory=ObservedGuard)
    obstacles: Mapping[str, DsrError] = field(default_factory=dict)
    ports: frozenset[UdpPort] = frozenset()


@dataclass(frozen=True, slots=True)
class Scope:
    """
    Where to look: *host* is links, sysctls, routes and all that belongs to tunnels; *addresses* are single VIPs.

    *everything* reads all of it afresh from the kernel and also sweeps what is ours and no longer desired.
    """

    everything: bool = False
    host: bool = False
    addresses: frozenset[AddressKey] = frozenset()

    def __or__(self, other: Scope) -> Scope:
        return Scope(self.everything or other.everything, self.host or other.host, self.addresses | other.addresses)

    def __sub__(self, looked_at: Scope) -> Scope:
        """What is still to be looked at after *looked_at*."""
        if looked_at.everything:
            return Scope()
        host = self.host and (self.everything or not looked_at.host)
        return Scope(self.everything, host, self.addresses - looked_at.addresses)

    def __bool__(self) -> bool:
        return self.everything or self.host or bool(self.addresses)


EVERYTHING = Scope(everything=True, host=True)
HOST = Scope(host=True)


@dataclass(frozen=True, slots=True)
class Changes:
    """
    What the kernel announced since last asked: *look at these keys again*.

    *by* maps a key to the netlink port of whoever asked for the change, where the kernel tells (addresses only:
    facts A5). *lost* means that announcements were dropped, so everything must be read back.
    """

    keys: frozenset[Key] = frozenset()
    by: Mapping[Key, int] = field(default_factory=dict)
    lost: bool = False
