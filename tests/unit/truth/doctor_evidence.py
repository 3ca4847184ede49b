"""Small pieces of evidence for the doctor: a healthy host, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from dsr_agent.config.desired import address_of
from dsr_agent.kernel.capture import Captured
from dsr_agent.kernel.headers import GRE, CapturedPacket, Inner
from dsr_agent.kernel.policy import Neighbour, Route
from dsr_agent.reconcile.link_sysctls import arp_sysctls
from dsr_agent.reconcile.plan import plan
from dsr_agent.reconcile.protection import wanted_table
from dsr_agent.reconcile.resolve import resolve, tunnel_address
from dsr_agent.service.selftest import ways
from dsr_agent.state.errors import Unsupported
from dsr_agent.state.local import LocalAddress, LocalTowards
from dsr_agent.state.marks import ALIAS, LINK_GROUP
from dsr_agent.state.model import EVERYTHING, Address, Desired, Ip, Link, Observed, Outer, SysctlKey, Tunnel, Vip
from dsr_agent.state.probe import Increase, Seen, Sight
from dsr_agent.state.table import GuardPolicy, ObservedGuard
from dsr_agent.truth.doctor.evidence import Counters, Evidence, Word
from dsr_agent.truth.listeners import Service, ServiceFinding, Verdict
from dsr_agent.truth.probe import Pair

HERE, BALANCER, STRANGER = IPv4Address("10.0.0.2"), IPv4Address("10.9.0.5"), IPv4Address("10.9.9.9")
CLIENT, CLIENT6 = ip_address("203.0.113.7"), ip_address("2001:db8:c::7")
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8:f::10")
SERVED = "udp/1812"
TUNNEL = Tunnel("dsr-gre", "gre", LocalAddress(HERE), (ip_network(f"{BALANCER}/32"),))
LINK = Link("dsr-gre", "gre", up=True, group=LINK_GROUP, alias=ALIAS, outer=Outer(local=HERE))
OUT = Route("eth0", ip_address("10.0.0.1"), 254)
GATEWAY = Neighbour("eth0", ip_address("10.0.0.1"))
MINUTE = 3.0


def file(**changes: Any) -> Desired:
    """A GRE tunnel and two VIPs, one of each version of IP."""
    vips = [Vip(ip, str(ip), tunnels=("dsr-gre",), services=(SERVED,)) for ip in (V4, V6)]
    made = Desired(
        tunnels={"dsr-gre": TUNNEL},
        vips={vip.key: vip for vip in vips},
        addresses={vip.key: address_of(vip) for vip in vips},
        guard=GuardPolicy(),
        fallback_devices="auto",
    )
    return replace(made, **changes)


def host(desired: Desired, *without: str, links: Iterable[Link] = (), **sysctls: int) -> Observed:
    """A host as *desired* says; *without* these links or addresses, with those *links* besides."""
    cards = {"eth0": Link("eth0", up=True, answers_arp=True, mtu=1500), "lo": Link("lo", up=True)}
    found = {**cards, "dsr-gre": LINK, **{link.name: link for link in links}}
    addresses = [*desired.addresses.values(), Address("eth0", HERE, 24), tunnel_address("dsr-gre")]
    values = {SysctlKey("net/ipv6/conf/all/forwarding"): 0, SysctlKey("net/ipv4/conf/all/rp_filter"): 0}
    values |= {SysctlKey(each.path): each.value for each in arp_sysctls("eth0")}
    observed = Observed(
        {name: link for name, link in found.items() if name not in without},
        {each.key: each for each in addresses if not {str(each.ip), each.link} & {*without}},
        values,
        modules=frozenset({"ip_gre"} - {*without}),
    )
    wanted = resolve(desired, observed)
    values |= {sysctl.key: sysctl.value for _, sysctl in wanted.sysctls}
    values |= {SysctlKey(f"net/ipv4/conf/dsr-gre/{name}"): value for name, value in sysctls.items()}
    if "ipv6" in without:
        values[SysctlKey("net/ipv6/conf/dsr-gre/disable_ipv6")] = 1
    if "table" not in without and desired.guard and wanted.carried:
        observed = replace(observed, guard=ObservedGuard(wanted_table(desired, wanted, observed)))
    return observed


def arriving(vip: Ip = V4, **changes: Any) -> CapturedPacket:
    """A client's request, as the balancer sends it."""
    client = CLIENT if vip.version == 4 else CLIENT6
    inner = Inner(client, vip, 60, 17, 1812)
    return replace(CapturedPacket("eth0", BALANCER, HERE, GRE, 84, inner=inner), **changes)


def evidence(desired: Desired | None = None, observed: Observed | None = None, **changes: Any) -> Evidence:
    """That of a healthy host, but for the *changes*."""
    desired = desired or file()
    observed = observed or host(desired)
    found = Evidence(
        desired,
        observed,
        plan(desired, observed, EVERYTHING),
        ways(resolve(desired, observed)),
        tuple(desired.vips),
        MINUTE,
        Counters(guard={}),
        Counters(guard={}),
        {Pair(vip.ip, name): Sight(Seen.ARRIVED, name) for vip in desired.vips.values() for name in vip.tunnels},
        captured=Captured((arriving(V4), arriving(V6))),
        listening={Service(key, SERVED): ServiceFinding(SERVED, Verdict.BOUND) for key in desired.vips},
        answers={V4: {CLIENT: OUT}, V6: {CLIENT6: OUT}},
        ordinary={CLIENT: OUT, CLIENT6: OUT},
        drops=(),
        agent=Word(7, {"reload": {"successful": True}}),
    )
    return replace(found, **changes)


def broken(*without: str, links: Iterable[Link] = (), desired: Desired | None = None, **sysctls: int) -> Evidence:
    """That of a host which lacks something, and where nothing gets through for it."""
    desired = desired or file()
    observed = host(desired, *without, links=links, **sysctls)
    return evidence(desired, observed, sights={})


def lost(*names: str, tunnel: int = 0, refused: int = 0) -> Mapping[Pair, Sight]:
    """The self-test's packet to the IPv4 VIP got lost, while these counters moved."""
    grown = Increase(dict.fromkeys(names, 1), tunnel, refused, 2)
    return {Pair(V4, "dsr-gre"): Sight(Seen.LOST, evidence=grown), Pair(V6, "dsr-gre"): Sight(Seen.ARRIVED)}


def sent(*packets: CapturedPacket, **changes: Any) -> Evidence:
    """What came in instead."""
    return evidence(captured=Captured(tuple(packets)), **changes)


def listens(verdict: Verdict, **changes: Any) -> Evidence:
    found = ServiceFinding(SERVED, verdict, ("10.0.0.2:1812",))
    return evidence(listening={Service(key, SERVED): found for key in file().vips}, **changes)


def says(**words: Any) -> Evidence:
    return evidence(agent=Word(7, words))


def vrf(*links: Link) -> Evidence:
    """The card, or what else is among *links*, is in a VRF, and the VIP is not."""
    card = Link("eth0", up=True, answers_arp=True, mtu=1500, master="red")
    observed = host(file(), links=[Link("red", "vrf", up=True), *(links or [card])])
    return evidence(None, observed, answers={V4: {CLIENT: Route(refused="unreachable")}})


def deaf_card(*, up: bool, carrier: bool) -> Evidence:
    """Nothing comes by the card that has the tunnel's address."""
    found = sent()
    card = Link("eth0", up=up, answers_arp=True, mtu=1500, carrier=carrier)
    return replace(found, observed=replace(found.observed, links={**found.observed.links, "eth0": card}))


def obstacle(text: str) -> Evidence:
    found = broken("dsr-gre", "ip_gre")
    observed = replace(found.observed, obstacles={"ip_gre": Unsupported(text, "do this")})
    return replace(found, observed=observed, todo=plan(found.desired, observed, EVERYTHING))


def unguarded() -> Evidence:
    found = broken("dsr-gre", "table")
    observed = replace(found.observed, guard=ObservedGuard(unavailable=Unsupported("no nftables", "install it")))
    return replace(found, observed=observed, todo=plan(found.desired, observed, EVERYTHING))


def other_guard() -> Evidence:
    observed = host(file())
    assert observed.guard.table
    table = replace(observed.guard.table, strangers=frozenset({("flag", "dormant")}))
    return evidence(None, replace(observed, guard=ObservedGuard(table)))


def undeclared_elsewhere() -> Evidence:
    desired = file()
    auto = replace(TUNNEL, local=LocalTowards((BALANCER,)))
    return broken("dsr-gre", "table", desired=replace(desired, tunnels={"dsr-gre": auto}))


def held(*without: str) -> Evidence:
    return broken(*without, desired=file(held=frozenset({V4})))


def elsewhere() -> Evidence:
    observed = host(file(), str(V4))
    other = Address("dummy0", IPv4Address(str(V4)), 32)
    observed = replace(observed, addresses={**observed.addresses, other.key: other})
    return evidence(None, observed, sights={})


def tentative() -> Evidence:
    vip = Vip(V6, str(V6), "eth1", ("dsr-gre",))
    desired = file(vips={vip.key: vip}, addresses={vip.key: address_of(vip)})
    observed = host(desired, links=[Link("eth1", up=True)])
    return sent(desired=desired, observed=observed, sights={Pair(V6, "dsr-gre"): Sight(Seen.NO_VIP)})


def quiet_arp(value: int) -> Evidence:
    observed = host(file())
    values = {**observed.sysctls, SysctlKey("net/ipv4/conf/eth0/arp_ignore"): value}
    return evidence(None, replace(observed, sysctls=values))


def forwards() -> Evidence:
    return evidence(None, host(file(), forwarding=1))
