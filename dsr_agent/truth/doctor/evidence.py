"""All that was gathered for the doctor, as one value. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from dsr_agent.guard.outer import counted_in
from dsr_agent.guard.sets import element
from dsr_agent.kernel.capture import Captured
from dsr_agent.kernel.headers import UDP, CapturedPacket, Inner
from dsr_agent.kernel.namespaces import Elsewhere
from dsr_agent.kernel.policy import Neighbour, Route, Rule
from dsr_agent.kernel.stats import Received
from dsr_agent.kernel.sysctl_files import Setting
from dsr_agent.kernel.trace import ForeignDrop
from dsr_agent.state.actions import Plan, WriteSysctl
from dsr_agent.state.count import Count, Counted
from dsr_agent.state.errors import DsrError
from dsr_agent.state.marks import owns_address
from dsr_agent.state.model import AddressKey, Desired, Ip, Key, Network, Observed, SysctlKey, Tunnel, Vip
from dsr_agent.state.ports import PortKey
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.vrfs import vrf_of
from dsr_agent.truth.listeners import Service, ServiceFinding
from dsr_agent.truth.probe import Pair, Way


@dataclass(frozen=True, slots=True)
class Counters:
    """One look: what the host has counted (by the kernel's names), each link, and the guard (None: not known)."""

    host: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, Received] = field(default_factory=dict)
    guard: Counted | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """
    The running agent's word: its process id, and what it says of itself.

    *says* is None if it did not answer; *may_ask* is false where this process has no right to ask it.
    """

    pid: int | None = None
    says: Mapping[str, Any] | None = None
    may_ask: bool = True


@dataclass(frozen=True)
class Evidence:
    """
    What was seen. *named* are the VIPs that it is about, *seconds* how long was looked.

    *ways* are the tunnels with a link (as it should be), *marked_at* the addresses of those whose packets are known by
    their code point. *sights* say what became of the self-test's packets, *untested* why there are none. *captured* is
    None where nothing could be seen, for the reason *uncaptured*. *answers* say which way answers would go from each
    VIP to some clients, *ordinary* the same from no address in particular, and *to_balancers* the way to each balancer.
    *told_mss* are the TCP segments that the guard tells clients of, by IP version. *squatters* are the sockets that
    have a tunnel's UDP port instead. *silent* are neighbours that do not say where they are, whenever they are asked.
    *drops* are other firewalls' (None: could not be followed).
    """

    desired: Desired = field(default_factory=Desired)
    observed: Observed = field(default_factory=Observed)
    todo: Plan = field(default_factory=Plan)
    ways: Mapping[str, Way] = field(default_factory=dict)
    named: tuple[AddressKey, ...] = ()
    seconds: float = 0.0
    before: Counters = field(default_factory=Counters)
    after: Counters = field(default_factory=Counters)
    sights: Mapping[Pair, Sight] = field(default_factory=dict)
    untested: str = ""
    captured: Captured | None = None
    uncaptured: str = ""
    listening: Mapping[Service, ServiceFinding] = field(default_factory=dict)
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)
    answers: Mapping[Ip, Mapping[Ip, Route]] = field(default_factory=dict)
    ordinary: Mapping[Ip, Route] = field(default_factory=dict)
    to_balancers: Mapping[Ip, Route] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    silent: frozenset[Neighbour] = frozenset()
    squatters: Mapping[PortKey, str] = field(default_factory=dict)
    drops: tuple[ForeignDrop, ...] | None = None
    sysctl_files: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    told_mss: Mapping[int, int] = field(default_factory=dict)
    agent: Word = field(default_factory=Word)
    marked_at: Mapping[str, frozenset[Ip]] = field(default_factory=dict)

    # --- what is asked of it ----------------------------------------------------------------------------------------

    @cached_property
    def vips(self) -> tuple[Vip, ...]:
        """Those that it is about."""
        return tuple(self.desired.vips[key] for key in self.named)

    @cached_property
    def tunnels(self) -> tuple[Tunnel, ...]:
        """Those by which one of the VIPs expects its requests."""
        names = {name for vip in self.vips for name in vip.tunnels}
        return tuple(tunnel for name, tunnel in self.desired.tunnels.items() if name in names)

    @property
    def about_all(self) -> bool:
        """Whether it is about every VIP of the file."""
        return len(self.named) == len(self.desired.vips)

    def meant_for(self, packet: CapturedPacket, tunnel: Tunnel) -> bool:
        """Whether what is inside is for one of the VIPs that expect their requests from *tunnel*, or cannot be read."""
        if packet.inner is None:
            return True
        key = self.desired.key_of_ip.get(packet.inner.destination)
        return key is not None and key in self.named_keys and tunnel.name in self.desired.vips[key].tunnels

    @cached_property
    def named_keys(self) -> frozenset[AddressKey]:
        """Those that it is about."""
        return frozenset(self.named)

    @cached_property
    def outer(self) -> tuple[CapturedPacket, ...]:
        """
        What came in wrapped.

        UDP that holds a packet may be anything: it counts where a tunnel of the file looks into it, or if that packet
        is for a VIP.
        """
        arrived = self.captured.arrived if self.captured else ()
        return tuple(packet for packet in arrived if packet.wrapped or self._wrapped_in_udp(packet))

    def _wrapped_in_udp(self, packet: CapturedPacket) -> bool:
        if packet.protocol != UDP or packet.later:
            return False
        if packet.inner and packet.inner.destination in self.desired.key_of_ip:
            return True
        return (packet.destination, packet.port) in self._doors

    @cached_property
    def _doors(self) -> frozenset[tuple[Ip | None, int | None]]:
        """Where the tunnels of the file look into UDP."""
        ports = (way.port for way in self.ways.values() if way.port)
        return frozenset((port.local, port.number) for port in ports)

    @cached_property
    def bare(self) -> tuple[CapturedPacket, ...]:
        """What came in as it is."""
        wrapped = set(self.outer)
        return tuple(each for each in (self.captured.arrived if self.captured else ()) if each not in wrapped)

    def moved(self, *names: str) -> tuple[str, ...]:
        """Which of the host's counters *names* have grown, and by how much, in words."""
        grown = ((name, self.grown(name)) for name in names)
        return tuple(f"{name} +{count} in {self.seconds:.0f} s" for name, count in grown if count)

    def grown(self, name: str) -> int:
        """By how much one of the host's counters has grown."""
        return max(self.after.host.get(name, 0) - self.before.host.get(name, 0), 0)

    def received(self, link: str) -> Received:
        """What a link has received and refused meanwhile."""
        return self.after.links.get(link, Received()).less(self.before.links.get(link, Received()))

    def guarded(self, name: str, text: str = "") -> int:
        """How many packets one of the guard's counters has counted meanwhile."""
        if self.after.guard is None:
            return 0
        before = (self.before.guard or {}).get((name, text), Count())
        return self.after.guard.get((name, text), Count()).since(before).packets

    def ever(self, tunnel: str, sender: Network) -> int | None:
        """How many packets the guard has let in from *sender* since it was made; None where it is not known."""
        if self.after.guard is None:
            return None
        place = _counted(tunnel, sender)
        return self.after.guard[place].packets if place in self.after.guard else None

    def lately(self, tunnel: str, sender: Network) -> int:
        """How many it has let in meanwhile."""
        return self.guarded(*_counted(tunnel, sender))

    def sysctl(self, path: str) -> int | None:
        """A sysctl's value; None if there is none."""
        return self.observed.sysctls.get(SysctlKey(path))

    def reverse_path(self, link: str) -> int | None:
        """The reverse-path filter of *link* as the kernel goes by it: the larger of all's and its own."""
        values = [self.sysctl(f"net/ipv4/conf/{name}/rp_filter") for name in ("all", link)]
        return None if None in values else max(value for value in values if value is not None)

    def sights_of(self, tunnel: str) -> Iterator[tuple[Ip, Sight]]:
        """The self-test's results by one tunnel."""
        return ((pair.vip, sight) for pair, sight in self.sights.items() if pair.tunnel == tunnel)

    def arrives(self, tunnel: str) -> bool:
        """Whether some packet of the self-test came through."""
        return any(sight.what is Seen.ARRIVED for _, sight in self.sights_of(tunnel))

    def vrf_outside(self, vip: Vip, tunnel: str) -> str:
        """The VRF by which a tunnel's packets come in while the VIP is in none; empty if there is none."""
        way = self.ways.get(tunnel)
        card = self.card_of(way.link.outer.local) if way and way.link.outer else ""
        return "" if vip.vrf else vrf_of(card, self.observed.links)

    @cached_property
    def own(self) -> frozenset[Ip]:
        """This host's own addresses, without what is ours."""
        return frozenset(key.ip for key, address in self.observed.addresses.items() if not owns_address(address))

    def card_of(self, ip: Ip | None) -> str:
        """The link that has *ip*; empty if none has."""
        return next((key.link for key in self.places.get(ip, ())), "") if ip else ""

    @property
    def agent_drops(self) -> tuple[str, ...]:
        """What the running agent has seen other firewalls drop."""
        return tuple((self.agent.says or {}).get("foreign_drops", ()))

    @cached_property
    def sent_to(self) -> Mapping[Ip, list[CapturedPacket]]:
        """What came in, by the VIP that it is for; what came as it is with itself as what is inside."""
        found: dict[Ip, list[CapturedPacket]] = {}
        for packet in self.outer:
            if packet.inner:
                found.setdefault(packet.inner.destination, []).append(packet)
        for packet in self.bare:
            if vip := self._meant(packet):
                inner = Inner(packet.source, vip, packet.length, packet.protocol, packet.port)
                found.setdefault(vip, []).append(replace(packet, inner=inner))
        return found

    def _meant(self, packet: CapturedPacket) -> Ip | None:
        """The VIP that a packet is for which came as it is: by its address, or by its code point."""
        if packet.destination in self.desired.key_of_ip:
            return packet.destination
        for name, ips in self.marked_at.items():
            if packet.destination in ips:
                return next((vip.ip for vip in self.coded.get(packet.code, ()) if self._by(vip, name, packet)), None)
        return None

    @staticmethod
    def _by(vip: Vip, tunnel: str, packet: CapturedPacket) -> bool:
        return tunnel in vip.tunnels and vip.ip.version == packet.version

    @cached_property
    def coded(self) -> Mapping[int, list[Vip]]:
        """The VIPs of the file by the code point that stands for them."""
        found: dict[int, list[Vip]] = {}
        for vip in self.desired.vips.values():
            if vip.dscp is not None:
                found.setdefault(vip.dscp, []).append(vip)
        return found

    @cached_property
    def problems(self) -> Mapping[Key, list[DsrError]]:
        """What cannot be had, by what it is about."""
        found: dict[Key, list[DsrError]] = {}
        for problem in self.todo.problems:
            found.setdefault(problem.key, []).append(problem.error)
        return found

    @cached_property
    def places(self) -> Mapping[Ip, list[AddressKey]]:
        """Where each address is that this host has."""
        found: dict[Ip, list[AddressKey]] = {}
        for key in self.observed.addresses:
            found.setdefault(key.ip, []).append(key)
        return found

    @cached_property
    def sysctls_to_write(self) -> tuple[WriteSysctl, ...]:
        """Those that are other than they have to be."""
        return tuple(action for action in self.todo.actions if isinstance(action, WriteSysctl))


def _counted(tunnel: str, sender: Network) -> tuple[str, str]:
    return counted_in(tunnel, sender.prefixlen, sender.version), element(sender.network_address)


def is_in(ip: Ip, networks: Collection[Network]) -> bool:
    """Whether *ip* is one of *networks*."""
    return any(ip.version == network.version and ip in network for network in networks)
