"""Packets of every encapsulation, written down byte by byte, and a host with tunnels for them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any

from dsr_agent.config.desired import address_of
from dsr_agent.kernel.capture import Captured
from dsr_agent.kernel.headers import CapturedPacket, arriving
from dsr_agent.kernel.policy import Route
from dsr_agent.reconcile.link_sysctls import arp_sysctls
from dsr_agent.reconcile.plan import plan
from dsr_agent.reconcile.protection import wanted_table
from dsr_agent.reconcile.resolve import resolve
from dsr_agent.service.selftest import ways
from dsr_agent.state.local import LocalAddress, LocalEvery
from dsr_agent.state.model import EVERYTHING, Address, Desired, Link, Observed, SysctlKey, Tunnel, Vip
from dsr_agent.state.outer import MODULE_OF_KIND, MODULE_OF_PORTS
from dsr_agent.state.ports import UdpPort
from dsr_agent.state.table import GuardPolicy, ObservedGuard
from dsr_agent.truth.doctor.causes import Finding, Stage
from dsr_agent.truth.doctor.evidence import Counters, Evidence, Word
from dsr_agent.truth.doctor.walk import Diagnosis

BALANCERS = {4: "10.9.0.5", 6: "2001:db8:b::5"}
HERES = {4: "10.0.0.2", 6: "2001:db8:a::2"}
OTHERS = {4: "10.0.0.3", 6: "2001:db8:a::3"}
STRANGERS = {4: "10.9.9.9", 6: "2001:db8:9::9"}
CLIENTS = {4: "203.0.113.7", 6: "2001:db8:c::7"}
VIPS = {4: "192.0.2.10", 6: "2001:db8:f::10"}
PORT = 6080

# --- packets ----------------------------------------------------------------------------------------------------------


def header(source: str, to: str, protocol: int, payload: bytes, code: int = 0) -> bytes:
    """RFC 791 or RFC 8200."""
    ends = ip_address(source).packed + ip_address(to).packed
    if ":" in to:
        return struct.pack(">IHBB", 0x60000000 | code << 22, len(payload), protocol, 64) + ends + payload
    front = struct.pack(">BBHHHBBH", 0x45, code << 2, 20 + len(payload), 0, 0x4000, 64, protocol, 0)
    return front + ends + payload


def datagram(port: int, payload: bytes) -> bytes:
    """RFC 768."""
    return struct.pack(">HHHH", 0xC001, port, 8 + len(payload), 0) + payload


def request(version: int) -> bytes:
    """A client's, to the VIP."""
    return header(CLIENTS[version], VIPS[version], 17, datagram(1812, b"Access-Request"))


def wrapped(
    kind: str, inner: int, *, port: int = PORT, key: int | None = None, checksum: bool = False
) -> tuple[int, bytes]:
    """RFC 2003, 2473, 2784, 2890, draft-ietf-intarea-gue-09."""
    packet, number = request(inner), {4: 4, 6: 41}[inner]
    if kind == "gre":
        flags = (0x8000 if checksum else 0) | (0x2000 if key is not None else 0)
        fields = (bytes(4) if checksum else b"") + (b"" if key is None else struct.pack(">I", key))
        return 47, struct.pack(">HH", flags, {4: 0x0800, 6: 0x86DD}[inner]) + fields + packet
    if kind == "ipip":
        return number, packet
    return 17, datagram(port, (struct.pack(">BBH", 0, number, 0) if kind == "gue" else b"") + packet)


def sent(
    kind: str, outer: int, inner: int = 4, *, source: str = "", to: str = "", limit: bool = False, **form: Any
) -> CapturedPacket:
    """As it is seen on the card; *limit*: with Linux' encapsulation limit in between."""
    protocol, payload = wrapped(kind, inner, **form)
    if limit:
        protocol, payload = 60, bytes([protocol, 0, 4, 1, 4, 1, 1, 0]) + payload
    found = arriving("eth0", header(source or BALANCERS[outer], to or HERES[outer], protocol, payload))
    assert found
    return found


# --- a host -----------------------------------------------------------------------------------------------------------


def tunnel(kind: str, version: int = 4, **changes: Any) -> Tunnel:
    if kind in ("dscp", "l2"):
        return replace(Tunnel(f"dsr-{kind}", kind, LocalEvery()), **changes)
    port = PORT if kind in ("gue", "fou") else None
    balancer = (ip_network(BALANCERS[version]),)
    name = f"dsr-{kind}{'6' * (version == 6)}"
    return replace(
        Tunnel(name, kind, LocalAddress(ip_address(HERES[version])), balancer, None, False, version, port), **changes
    )


@dataclass(frozen=True)
class World:
    """A file with *tunnels*, and a VIP of each version by all of them, on a host that is as it should be."""

    tunnels: tuple[Tunnel, ...]
    guarded: bool = True
    codes: tuple[int | None, int | None] = (None, None)
    services: tuple[str, ...] = ("udp/1812",)
    guard: GuardPolicy | None = field(default_factory=GuardPolicy)

    @property
    def desired(self) -> Desired:
        vips = [
            Vip(
                ip_address(VIPS[version]), VIPS[version], "lo", tuple(t.name for t in self.tunnels), self.services, code
            )
            for version, code in zip((4, 6), self.codes, strict=True)
        ]
        return Desired(
            {each.name: each for each in self.tunnels},
            {vip.key: vip for vip in vips},
            {vip.key: address_of(vip) for vip in vips},
            guard=self.guard,
        )

    def observed(self) -> Observed:
        desired = self.desired
        cards = {"eth0": Link("eth0", up=True, answers_arp=True, mtu=1500), "lo": Link("lo", up=True)}
        addresses = [*desired.addresses.values()]
        for place in (HERES, OTHERS):
            addresses += [Address("eth0", ip_address(place[4]), 24), Address("eth0", ip_address(place[6]), 64)]
        values = {SysctlKey("net/ipv6/conf/all/forwarding"): 0, SysctlKey("net/ipv4/conf/all/rp_filter"): 0}
        for name in ("eth0", "all"):
            values |= {SysctlKey(each.path): each.value for each in arp_sysctls(name)}
        bare = Observed(cards, {each.key: each for each in addresses}, values)
        wanted = resolve(desired, bare)
        links = {item.link.name: item.link for item in wanted.carried}
        addresses += wanted.addresses.values()
        values |= {sysctl.key: sysctl.value for _, sysctl in wanted.sysctls}
        modules = {MODULE_OF_KIND[link.kind] for link in links.values()}
        ports = frozenset(UdpPort(item.port) for item in wanted.carried if item.port)
        modules |= {MODULE_OF_PORTS} if ports else set()
        found = Observed({**cards, **links}, {a.key: a for a in addresses}, values, {}, frozenset(modules), ports=ports)
        return self._with_table(found)

    def _with_table(self, observed: Observed) -> Observed:
        if not self.guarded:
            return observed
        table = wanted_table(self.desired, resolve(self.desired, observed), observed)
        return replace(observed, guard=ObservedGuard(table))

    def evidence(self, *packets: CapturedPacket, observed: Observed | None = None, **changes: Any) -> Evidence:
        desired, observed = self.desired, observed or self.observed()
        wanted = resolve(desired, observed)
        out = Route("eth0", ip_address("10.0.0.1"), 254)
        found = Evidence(
            desired,
            observed,
            plan(desired, observed, EVERYTHING),
            ways(wanted),
            tuple(desired.vips),
            3.0,
            Counters(guard={}),
            Counters(guard={}),
            captured=Captured(packets),
            ordinary={ip_address(CLIENTS[4]): out},
            drops=(),
            agent=Word(7, {}),
            marked_at=wanted.bare.marked_at,
        )
        return replace(found, **changes)


def told(found: Diagnosis) -> list[tuple[str, str | None]]:
    """Faults and warnings of what load balancers send, and of tunnels."""
    of = (Stage.ARRIVING, Stage.MODULE, Stage.TUNNEL, Stage.LOCAL, Stage.MTU)
    return [(str(each.cause), each.tunnel) for each in found.causes if each.stage in of]


def first(found: Diagnosis) -> Finding:
    assert found.causes, found
    return found.causes[0]


KINDS = [(kind, version) for kind in ("ipip", "gre", "gue", "fou") for version in (4, 6)]
