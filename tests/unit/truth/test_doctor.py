"""What the doctor says of each fault, from small pieces of evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_agent.config.desired import address_of
from dsr_agent.guard.outer import counted_in
from dsr_agent.guard.sets import element
from dsr_agent.kernel.capture import Captured
from dsr_agent.kernel.headers import GRE, IPIP, UDP, Inner, Leaving, Outer
from dsr_agent.kernel.namespaces import Elsewhere
from dsr_agent.kernel.policy import Neighbour, Rule, Way
from dsr_agent.kernel.stats import Received
from dsr_agent.kernel.sysctl_files import Setting
from dsr_agent.kernel.trace import ForeignDrop
from dsr_agent.printing_doctor import diagnosed, diagnosed_json
from dsr_agent.reconcile.plan import plan
from dsr_agent.reconcile.protection import wanted_table
from dsr_agent.reconcile.resolve import TUNNEL_ADDRESS, arp_sysctls, resolve, tunnel_address
from dsr_agent.service.selftest import ways
from dsr_agent.state.count import Count
from dsr_agent.state.errors import Unsupported
from dsr_agent.state.local import LocalAddress, LocalTowards
from dsr_agent.state.marks import ALIAS, LINK_GROUP
from dsr_agent.state.model import EVERYTHING, Address, Desired, Ip, Link, Observed, SysctlKey, Tunnel, Vip
from dsr_agent.state.model import Outer as Header
from dsr_agent.state.probe import Evidence as Grown
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.table import GuardPolicy, ObservedGuard
from dsr_agent.truth.doctor.causes import Cause, Finding, Result, Stage
from dsr_agent.truth.doctor.evidence import Counters, Evidence, Word
from dsr_agent.truth.doctor.walk import Diagnosis, diagnose
from dsr_agent.truth.listeners import Finding as Listening
from dsr_agent.truth.listeners import Service, Verdict
from dsr_agent.truth.probe import Pair

HERE, BALANCER, STRANGER = IPv4Address("10.0.0.2"), IPv4Address("10.9.0.5"), IPv4Address("10.9.9.9")
CLIENT, CLIENT6 = ip_address("203.0.113.7"), ip_address("2001:db8:c::7")
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8:f::10")
SERVED = "udp/1812"
TUNNEL = Tunnel("dsr-gre", "gre", LocalAddress(HERE), (ip_network(f"{BALANCER}/32"),))
LINK = Link("dsr-gre", "gre", up=True, group=LINK_GROUP, alias=ALIAS, outer=Header(local=HERE))
OUT = Way("eth0", ip_address("10.0.0.1"), 254)
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


def arriving(vip: Ip = V4, **changes: Any) -> Outer:
    """A client's request, as the balancer sends it."""
    client = CLIENT if vip.version == 4 else CLIENT6
    inner = Inner(client, vip, 60, 17, 1812)
    return replace(Outer("eth0", BALANCER, HERE, GRE, 84, inner=inner), **changes)


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
        listening={Service(key, SERVED): Listening(SERVED, Verdict.BOUND) for key in desired.vips},
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
    grown = Grown(dict.fromkeys(names, 1), tunnel, refused, 2)
    return {Pair(V4, "dsr-gre"): Sight(Seen.LOST, evidence=grown), Pair(V6, "dsr-gre"): Sight(Seen.ARRIVED)}


def sent(*packets: Outer, **changes: Any) -> Evidence:
    """What came in instead."""
    return evidence(captured=Captured(tuple(packets)), **changes)


def listens(verdict: Verdict, **changes: Any) -> Evidence:
    found = Listening(SERVED, verdict, ("10.0.0.2:1812",))
    return evidence(listening={Service(key, SERVED): found for key in file().vips}, **changes)


def says(**words: Any) -> Evidence:
    return evidence(agent=Word(7, words))


def vrf(*links: Link) -> Evidence:
    """The card, or what else is among *links*, is in a VRF, and the VIP is not."""
    card = Link("eth0", up=True, answers_arp=True, mtu=1500, master="red")
    observed = host(file(), links=[Link("red", "vrf", up=True), *(links or [card])])
    return evidence(None, observed, answers={V4: {CLIENT: Way(refused="unreachable")}})


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


DROP = ForeignDrop("inet", "fw", "input", "its policy", f"UDP from {CLIENT} to {V4}", str(CLIENT), str(V4))
AT_CARD = replace(DROP, packet=f"GRE from {BALANCER} to {HERE}", source=str(BALANCER), target=str(HERE))
STRICT = Setting("/etc/sysctl.d/50.conf", 3, "net/ipv4/conf/*/rp_filter", "1")
STRICT_PATH = "net/ipv4/conf/dsr-gre/rp_filter"
UNREACHABLE = Rule(4, 20, "unreachable", 0, ip_network(f"{V4}/32"))
BLACKHOLE = Rule(4, 5, "blackhole", 0, iif="dsr-gre")
SILENT = replace(TUNNEL, load_balancers=(*TUNNEL.load_balancers, ip_network("10.9.0.6/32")))
TUNL0 = Link("gre0", "gre", up=True, outer=Header())

CASES: list[tuple[Cause, Stage, Result, Callable[[], Evidence], str]] = [
    (Cause.MODULE_FORBIDDEN, Stage.MODULE, Result.FAULT, lambda: obstacle("it is blacklisted in /x"), "do this"),
    (Cause.MODULE_MISSING, Stage.MODULE, Result.FAULT, lambda: broken("dsr-gre", "ip_gre"), "modprobe ip_gre"),
    (Cause.MODULE_MISSING, Stage.MODULE, Result.FAULT, lambda: obstacle("no such module"), "do this"),
    (Cause.LOCAL_MISSING, Stage.LOCAL, Result.FAULT, undeclared_elsewhere, "write in its [[tunnel]]"),
    (Cause.LOCAL_MISSING, Stage.LOCAL, Result.FAULT, lambda: broken("eth0"), "no packet can arrive"),
    (Cause.GUARD_UNAVAILABLE, Stage.GUARD, Result.FAULT, unguarded, "install it"),
    (Cause.TUNNEL_MASKED, Stage.TUNNEL, Result.FAULT, lambda: broken("dsr-gre", links=[TUNL0]), "dsr-agent apply"),
    (
        Cause.TUNNEL_MASKED,
        Stage.TUNNEL,
        Result.FAULT,
        lambda: evidence(sights={Pair(V4, "dsr-gre"): Sight(Seen.ELSEWHERE, "spy")}),
        "ip link del spy",
    ),
    (
        Cause.TUNNEL_MASKED,
        Stage.TUNNEL,
        Result.FAULT,
        lambda: evidence(sights={Pair(V4, "dsr-gre"): Sight(Seen.ELSEWHERE, "gre0")}),
        "ip link set gre0 down",
    ),
    (Cause.TUNNEL_MISSING, Stage.TUNNEL, Result.FAULT, lambda: broken("dsr-gre"), "dsr-agent apply"),
    (
        Cause.TUNNEL_DOWN,
        Stage.TUNNEL,
        Result.FAULT,
        lambda: broken(links=[replace(LINK, up=False)]),
        "ip link set dsr-gre up",
    ),
    (
        Cause.TUNNEL_OTHER,
        Stage.TUNNEL,
        Result.FAULT,
        lambda: broken(links=[replace(LINK, outer=Header(local=HERE, key=9))]),
        "dsr-agent apply",
    ),
    (Cause.TUNNEL_OTHER, Stage.TUNNEL, Result.FAULT, lambda: evidence(sights=lost(refused=1)), "dsr-agent apply"),
    (
        Cause.TUNNEL_OTHER,
        Stage.TUNNEL,
        Result.FAULT,
        lambda: replace(vrf(replace(LINK, master="red")), sights=lost(tunnel=1), answers={}),
        "ip link set dsr-gre nomaster",
    ),
    (
        Cause.TUNNEL_DISABLED_IPV6,
        Stage.TUNNEL,
        Result.FAULT,
        lambda: broken("ipv6"),
        "sysctl -w net/ipv6/conf/dsr-gre/disable_ipv6=0",
    ),
    (Cause.GUARD_MISSING, Stage.GUARD, Result.FAULT, lambda: evidence(None, host(file(), "table")), "dsr-agent apply"),
    (Cause.GUARD_OTHER, Stage.GUARD, Result.FAULT, other_guard, "dsr-agent apply"),
    (
        Cause.BALANCER_SENDS_OTHER,
        Stage.ARRIVING,
        Result.FAULT,
        lambda: sent(arriving(protocol=IPIP)),
        'write encapsulation = "ipip" in [[tunnel]] dsr-gre',
    ),
    (Cause.BALANCER_SENDS_KEY, Stage.ARRIVING, Result.FAULT, lambda: sent(arriving(key=7)), "write key = 7 in"),
    (
        Cause.BALANCER_SENDS_CHECKSUM,
        Stage.ARRIVING,
        Result.FAULT,
        lambda: sent(arriving(flags=0x8000)),
        "write checksum = true in",
    ),
    (
        Cause.BALANCER_SENDS_ELSEWHERE,
        Stage.ARRIVING,
        Result.FAULT,
        lambda: sent(arriving(destination=IPv4Address("10.0.0.3"))),
        'write local = "10.0.0.3"',
    ),
    (
        Cause.GUARD_REFUSES_SOURCE,
        Stage.ARRIVING,
        Result.FAULT,
        lambda: sent(arriving(source=STRANGER)),
        f'add "{STRANGER}" to load_balancers',
    ),
    (
        Cause.GUARD_REFUSES_SOURCE,
        Stage.ARRIVING,
        Result.WARNING,
        lambda: sent(arriving(), arriving(source=STRANGER)),
        f'add "{STRANGER}" to load_balancers',
    ),
    (
        Cause.GUARD_REFUSES_PROTOCOL,
        Stage.GUARD,
        Result.WARNING,
        lambda: evidence(captured=None, after=Counters(guard={("protocol", ""): Count(2, 99)})),
        "tcpdump",
    ),
    (
        Cause.GUARD_REFUSES_INNER,
        Stage.GUARD,
        Result.FAULT,
        lambda: sent(arriving(), arriving(ip_address("192.0.2.99"))),
        'add [[vip]] address = "192.0.2.99"',
    ),
    (
        Cause.GUARD_REFUSES_INNER,
        Stage.GUARD,
        Result.WARNING,
        lambda: evidence(after=Counters(guard={("service", ""): Count(2, 99)})),
        "compare services",
    ),
    (Cause.VIP_HELD, Stage.VIP, Result.FAULT, lambda: held(str(V4)), f"dsr-agent release {V4}"),
    (Cause.VIP_HELD, Stage.VIP, Result.WARNING, held, f"dsr-agent release {V4}"),
    (Cause.VIP_ELSEWHERE, Stage.VIP, Result.FAULT, elsewhere, "dsr-agent apply"),
    (Cause.VIP_MISSING, Stage.VIP, Result.FAULT, lambda: broken(str(V4)), "dsr-agent apply"),
    (
        Cause.VIP_MISSING,
        Stage.VIP,
        Result.FAULT,
        lambda: evidence(sights={Pair(V4, "dsr-gre"): Sight(Seen.NO_VIP)}),
        f"ip route add local {V4} dev lo table local",
    ),
    (Cause.IPV6_TENTATIVE, Stage.VIP, Result.FAULT, tentative, "nodad"),
    (
        Cause.FIREWALL_DROPS,
        Stage.FIREWALL,
        Result.FAULT,
        lambda: evidence(sights=lost(tunnel=1), drops=(DROP,)),
        f"nft insert rule inet fw input ip daddr {V4} accept",
    ),
    (Cause.FIREWALL_DROPS, Stage.FIREWALL, Result.WARNING, lambda: evidence(drops=(DROP,)), "nft insert rule"),
    (
        Cause.FIREWALL_DROPS,
        Stage.FIREWALL,
        Result.FAULT,
        lambda: evidence(drops=(AT_CARD,)),
        f"nft insert rule inet fw input ip saddr {BALANCER} ip daddr {HERE} accept",
    ),
    (
        Cause.REVERSE_PATH_SYSCTL_D,
        Stage.REVERSE_PATH,
        Result.FAULT,
        lambda: replace(broken(rp_filter=1), sysctl_files={STRICT_PATH: (STRICT,)}),
        "into /etc/sysctl.d/50.conf after line 3",
    ),
    (Cause.REVERSE_PATH, Stage.REVERSE_PATH, Result.FAULT, lambda: broken(rp_filter=1), f"sysctl -w {STRICT_PATH}=2"),
    (
        Cause.REVERSE_PATH,
        Stage.REVERSE_PATH,
        Result.FAULT,
        lambda: broken(str(TUNNEL_ADDRESS)),
        "dsr-agent apply",
    ),
    (
        Cause.REVERSE_PATH,
        Stage.REVERSE_PATH,
        Result.FAULT,
        lambda: evidence(sights=lost("TcpExtIPReversePathFilter")),
        f"sysctl -w {STRICT_PATH}=2",
    ),
    (
        Cause.NO_CLIENT_ROUTE,
        Stage.REVERSE_PATH,
        Result.FAULT,
        lambda: evidence(ordinary={CLIENT: Way(refused="x")}, answers={V4: {CLIENT: Way(refused="x")}}),
        "ip route add default via GATEWAY",
    ),
    (
        Cause.VIP_RULE,
        Stage.VIP,
        Result.FAULT,
        lambda: evidence(sights=lost("IpInAddrErrors"), rules=(BLACKHOLE,)),
        "ip rule del pref 5",
    ),
    (Cause.VIP_RULE, Stage.VIP, Result.FAULT, lambda: evidence(sights=lost("IpInAddrErrors")), "ip rule list"),
    (
        Cause.FIREWALL_UNTOLD,
        Stage.FIREWALL,
        Result.FAULT,
        lambda: evidence(sights=lost(tunnel=1)),
        "nft -a list ruleset",
    ),
    (
        Cause.FIREWALL_UNTOLD,
        Stage.FIREWALL,
        Result.FAULT,
        lambda: sent(*[arriving()] * 3),
        "nft -a list ruleset",
    ),
    (
        Cause.SERVICE_OTHER_NAMESPACE,
        Stage.LISTENER,
        Result.FAULT,
        lambda: listens(Verdict.NOBODY, elsewhere={SERVED: Elsewhere(SERVED, "radiusd (process 9)")}),
        "network namespace",
    ),
    (
        Cause.LISTENING_ELSEWHERE,
        Stage.LISTENER,
        Result.FAULT,
        lambda: listens(Verdict.ELSEWHERE),
        "port 1812",
    ),
    (
        Cause.NOT_LISTENING,
        Stage.LISTENER,
        Result.FAULT,
        lambda: listens(Verdict.NOBODY),
        f"start the application that serves {SERVED}, bound to",
    ),
    (
        Cause.ANSWERS_WRONG_ADDRESS,
        Stage.ANSWER,
        Result.FAULT,
        lambda: evidence(captured=Captured((arriving(),), (Leaving(HERE, CLIENT, 1812, "eth0"),))),
        f"bind the application to {V4}",
    ),
    (
        Cause.CHECK_FAILED,
        Stage.ANSWER,
        Result.FAULT,
        lambda: says(not_ready={str(V4): ["radius check: no answer"]}),
        "dsr-agent status",
    ),
    (
        Cause.WAY_BACK_RULE,
        Stage.WAY_BACK,
        Result.FAULT,
        lambda: evidence(
            answers={V4: {CLIENT: Way(refused="x")}},
            rules=(UNREACHABLE,),
            sights=lost("TcpExtIPReversePathFilter"),
        ),
        "ip rule del pref 20",
    ),
    (Cause.WAY_BACK_VRF, Stage.WAY_BACK, Result.FAULT, vrf, 'write vrf = "red" in the [[tunnel]]'),
    (
        Cause.WAY_BACK_ASYMMETRIC,
        Stage.WAY_BACK,
        Result.WARNING,
        lambda: replace(vrf(), answers={V4: {CLIENT: Way("eth1")}}, captured=sent(arriving()).captured),
        f"ip route get {CLIENT} from {V4}",
    ),
    (
        Cause.WAY_BACK_VRF,
        Stage.WAY_BACK,
        Result.FAULT,
        lambda: replace(vrf(), sights=lost("IcmpOutDestUnreachs"), ordinary={CLIENT: Way(refused="unreachable")}),
        'write vrf = "red" in the [[tunnel]]',
    ),
    (
        Cause.WAY_BACK_MISSING,
        Stage.WAY_BACK,
        Result.FAULT,
        lambda: evidence(answers={V6: {CLIENT6: Way(refused="x")}}),
        "ip -6 route add default via GATEWAY",
    ),
    (
        Cause.WAY_BACK_MISSING,
        Stage.WAY_BACK,
        Result.FAULT,
        lambda: evidence(ordinary={CLIENT6: Way(kind="blackhole")}, answers={V6: {CLIENT6: Way(kind="blackhole")}}),
        "ip -6 route del blackhole",
    ),
    (
        Cause.WAY_BACK_MISSING,
        Stage.WAY_BACK,
        Result.FAULT,
        lambda: evidence(silent=frozenset({GATEWAY})),
        "ip route replace default via GATEWAY dev eth0",
    ),
    (
        Cause.WAY_BACK_RULE,
        Stage.WAY_BACK,
        Result.FAULT,
        lambda: evidence(
            answers={V4: {CLIENT: Way("eth0", GATEWAY.ip, 77)}},
            ordinary={CLIENT: Way("eth0", ip_address("10.0.0.254"), 254)},
            rules=(replace(UNREACHABLE, action="lookup", table=77),),
            silent=frozenset({GATEWAY}),
        ),
        "ip rule del pref 20",
    ),
    (
        Cause.MTU_BLACK_HOLE,
        Stage.MTU,
        Result.FAULT,
        lambda: sent(arriving(), arriving(fragment=True), after=Counters({"IpReasmFails": 4})),
        "raise the MTU between balancer and server to 1524",
    ),
    (
        Cause.MTU_BLACK_HOLE,
        Stage.MTU,
        Result.WARNING,
        lambda: evidence(file(guard=GuardPolicy(mss=1460))),
        'write mss = "auto"',
    ),
    (
        Cause.MTU_BLACK_HOLE,
        Stage.MTU,
        Result.WARNING,
        lambda: evidence(to_balancers={BALANCER: replace(OUT, mtu=1400)}, told_mss={4: 1436}),
        "write mss = 1316 in [guard]",
    ),
    (Cause.NOTHING_ARRIVES, Stage.ARRIVING, Result.WARNING, sent, "let protocol 47 pass"),
    (
        Cause.BALANCER_SILENT,
        Stage.ARRIVING,
        Result.WARNING,
        lambda: evidence(file(tunnels={"dsr-gre": SILENT})),
        "see whether that is a standby",
    ),
    (Cause.AGENT_STUCK, Stage.AGENT, Result.WARNING, lambda: evidence(agent=Word(7)), "systemctl restart dsr-agent"),
    (Cause.AGENT_NOT_RUNNING, Stage.AGENT, Result.WARNING, lambda: evidence(agent=Word()), "systemctl start"),
    (
        Cause.FILE_REFUSED,
        Stage.AGENT,
        Result.WARNING,
        lambda: says(reload={"successful": False, "refusals": ["line 3"]}),
        "dsr-agent check",
    ),
    (Cause.FIGHT, Stage.AGENT, Result.WARNING, lambda: says(fights={"dsr-gre": 12}), "journalctl -u dsr-agent"),
    (
        Cause.DRAINED,
        Stage.AGENT,
        Result.WARNING,
        lambda: says(drained={"host": None, "vips": [{"vip": str(V4)}]}),
        f"dsr-agent undrain {V4}",
    ),
    (
        Cause.TUNNEL_SETTINGS,
        Stage.TUNNEL,
        Result.WARNING,
        forwards,
        "sysctl -w net/ipv4/conf/dsr-gre/forwarding=0",
    ),
    (
        Cause.UNANSWERED,
        Stage.ANSWER,
        Result.WARNING,
        lambda: sent(*[arriving()] * 3, after=Counters(links={"dsr-gre": Received(9)}, guard={})),
        "look into the application's log",
    ),
    (
        Cause.ANSWERS_WRONG_ADDRESS,
        Stage.ANSWER,
        Result.FAULT,
        lambda: says(
            not_ready={str(V4): ["radius check: it was answered from 10.0.0.2"]},
            checks=[{"vip": str(V4), "check": "radius", "reason": "wrong_source"}],
        ),
        f"bind the application to {V4}",
    ),
    (
        Cause.BALANCER_SENDS_OTHER,
        Stage.ARRIVING,
        Result.FAULT,
        lambda: sent(arriving(protocol=UDP), arriving(V6)),
        "have the load balancer send gre",
    ),
    (Cause.LISTENING_WILDCARD, Stage.ANSWER, Result.WARNING, lambda: listens(Verdict.WILDCARD), "IP_PKTINFO"),
    (
        Cause.WAY_BACK_ASYMMETRIC,
        Stage.WAY_BACK,
        Result.WARNING,
        lambda: evidence(answers={V4: {CLIENT: Way("eth1")}}),
        f"ip route get {CLIENT} from {V4}",
    ),
    (
        Cause.ARP_ANSWERS,
        Stage.VIP,
        Result.WARNING,
        lambda: quiet_arp(0),
        "sysctl -w net/ipv4/conf/eth0/arp_ignore=1",
    ),
]


def first(found: Diagnosis) -> Finding:
    assert found.causes, found
    return found.causes[0]


def test_a_healthy_host_is_well_at_every_stage() -> None:
    found = diagnose(evidence())
    assert found.causes == ()
    assert found.fine
    for stages in found.vips.values():
        unclear = [each for each in stages if each.result is not Result.OK]
        assert [each.stage for each in unclear] == [Stage.ANSWER] * len(unclear), unclear
        assert [each.stage for each in stages] == sorted((each.stage for each in stages), key=list(Stage).index)
        assert {each.stage for each in stages} == {*Stage} - {Stage.AGENT}
    assert diagnosed(found).endswith("\nnothing is wrong")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[4]}")
def test_each_fault_is_named_first_and_alone(case: tuple[Cause, Stage, Result, Callable[[], Evidence], str]) -> None:
    cause, stage, result, make, remedy = case
    found = diagnose(make())
    told = first(found)
    assert (told.cause, told.stage, told.result) == (cause, stage, result), found.causes
    assert remedy in told.remedy
    assert told.saw
    assert {each.cause for each in found.causes if each.result is Result.FAULT} <= {cause}, found.causes
    assert found.fine is (result is not Result.FAULT)
    assert str(cause) in diagnosed(found)
    assert diagnosed_json(found)["causes"][0]["cause"] == cause


def test_every_cause_is_known_by_an_example() -> None:
    """Those of UDP and of what comes without a tunnel are in `test_doctor_sent`, `_kinds` and `_bare`."""
    elsewhere = {
        Cause.BALANCER_SENDS_PORT,
        Cause.BALANCER_SENDS_CODE_POINT,
        Cause.PORT_CLOSED,
        Cause.PORT_TAKEN,
    }
    assert {cause for cause, *_ in CASES} == {*Cause} - elsewhere


def test_counters_are_told_by_the_kernels_names() -> None:
    made = replace(broken("dsr-gre"), before=Counters({"IcmpOutDestUnreachs": 5}))
    made = replace(made, after=Counters({"IcmpOutDestUnreachs": 17}, guard={}))
    assert first(diagnose(made)).evidence == ("IcmpOutDestUnreachs +12 in 3 s",)


def test_what_follows_from_a_fault_is_told_as_that() -> None:
    stages = {each.stage: each for each in diagnose(broken("dsr-gre", "ip_gre")).vips[V4]}
    assert stages[Stage.TUNNEL].saw == stages[Stage.FIREWALL].saw == "follows from module_missing"
    assert stages[Stage.WAY_BACK].result is Result.OK


def test_a_fault_of_one_vip_is_not_the_others() -> None:
    found = diagnose(evidence(sights=lost("TcpExtIPReversePathFilter")))
    bad = {ip for ip, stages in found.vips.items() if any(each.blocks for each in stages)}
    assert bad == {V4}


def test_what_the_guard_has_let_in_stands_for_what_cannot_be_seen() -> None:
    place = counted_in("dsr-gre"), element(BALANCER)
    made = evidence(captured=None, uncaptured="needs root", after=Counters(guard={place: Count(9, 900)}))
    stages = {each.stage: each for each in diagnose(made).vips[V4]}
    assert stages[Stage.ARRIVING].saw == "the guard has let in 9 packets in 3 s"
    stages = {each.stage: each for each in diagnose(evidence(captured=None, uncaptured="needs root")).vips[V4]}
    assert (stages[Stage.ARRIVING].result, stages[Stage.ARRIVING].saw) == (Result.UNKNOWN, "needs root")


def test_others_who_reach_the_host_are_named_where_nothing_wrapped_comes() -> None:
    found = diagnose(sent(arriving(protocol=6, inner=None)))
    assert first(found).saw == f"no GRE from any load balancer in 3 s, though {BALANCER} reaches this host otherwise"


def test_what_others_drop_of_other_tunnels_is_not_this_ones_fault() -> None:
    drops = (replace(AT_CARD, packet=f"IPIP from {BALANCER} to {HERE}"), replace(AT_CARD, source=str(STRANGER)))
    assert diagnose(evidence(drops=drops)).causes == ()


def test_many_vips_that_look_alike_are_told_once() -> None:
    found = diagnose(broken("dsr-gre"))
    many = Diagnosis({ip_address(number): found.vips[V4] for number in range(1, 1001)}, found.causes * 3, 64)
    text = diagnosed(many)
    assert "VIP 0.0.0.1 and 999 more VIPs\n" in text
    assert "the self-test was sent to 64 of 1000 VIPs" in text
    assert len(text.splitlines()) < 30


PIECES = {
    "links": st.sampled_from([{}, {"dsr-gre": Received(5, 500, 1, 0, 0, 1)}]),
    "sight": st.one_of(
        st.builds(Sight, st.sampled_from(Seen), st.sampled_from(["", "dsr-gre", "gre0"]), st.just("so")),
        st.sampled_from([*lost("TcpExtIPReversePathFilter").values(), *lost(tunnel=2).values()]),
    ),
    "packet": st.builds(
        arriving,
        vip=st.sampled_from([V4, V6, ip_address("192.0.2.99")]),
        source=st.sampled_from([BALANCER, STRANGER, HERE, CLIENT6]),
        destination=st.sampled_from([HERE, BALANCER, V4, V6]),
        protocol=st.sampled_from([4, 6, 17, 41, 47]),
        port=st.sampled_from([None, 6080]),
        variant=st.sampled_from([None, 0, 1]),
        length=st.sampled_from([60, 84, 300]),
        key=st.sampled_from([None, 7]),
        flags=st.sampled_from([0, 0x8000]),
        fragment=st.booleans(),
    ),
    "without": st.lists(
        st.sampled_from(["dsr-gre", "eth0", str(V4), str(V6), "ip_gre", "table", str(TUNNEL_ADDRESS)]), max_size=3
    ),
    "way": st.sampled_from([OUT, Way("eth1"), Way(refused="x"), Way(kind="blackhole"), Way(kind="local")]),
    "rule": st.sampled_from([UNREACHABLE, BLACKHOLE, Rule(6, 3, "lookup", 100)]),
    "drop": st.sampled_from([DROP, AT_CARD]),
    "verdict": st.sampled_from(Verdict),
    "says": st.sampled_from([None, {}, {"not_ready": {str(V4): ["x"]}}, {"reload": {"successful": False}}]),
}


@given(st.data())
def test_whatever_was_seen_something_is_said(data: st.DataObject) -> None:
    """Each VIP's stages in order, a cause and a remedy wherever something is wrong, and "ok" only where nothing is."""

    def some(name: str) -> Any:
        return data.draw(PIECES[name])

    desired = data.draw(st.sampled_from([file(), file(guard=None), file(guard=GuardPolicy(False, True, 0))]))
    found = diagnose(
        evidence(
            desired,
            host(desired, *some("without"), rp_filter=data.draw(st.integers(0, 2))),
            sights={Pair(ip, "dsr-gre"): some("sight") for ip in data.draw(st.sets(st.sampled_from([V4, V6])))},
            captured=data.draw(st.one_of(st.none(), st.builds(Captured, st.lists(PIECES["packet"]).map(tuple)))),
            after=Counters({"IpReasmFails": data.draw(st.integers(0, 2))}, some("links")),
            answers={V4: {CLIENT: some("way")}, V6: {CLIENT6: some("way")}},
            ordinary={CLIENT: some("way")},
            rules=tuple(data.draw(st.lists(PIECES["rule"], max_size=2))),
            drops=data.draw(st.one_of(st.none(), st.lists(PIECES["drop"], max_size=2).map(tuple))),
            listening={Service(key, SERVED): Listening(SERVED, some("verdict"), ("x",)) for key in desired.vips},
            agent=Word(data.draw(st.sampled_from([None, 7])), some("says")),
        )
    )
    faults = [each for stages in found.vips.values() for each in stages if each.result is Result.FAULT]
    assert found.fine is not bool(faults)
    for stages in found.vips.values():
        assert {each.stage for each in stages} >= {*Stage} - {Stage.AGENT}
        for each in stages:
            assert bool(each.cause) == bool(each.remedy) == (each.result in (Result.FAULT, Result.WARNING))
            assert each.saw
    results = [each.result for each in found.causes]
    assert results == sorted(results, key=lambda result: result is not Result.FAULT)
    assert diagnosed(found)
