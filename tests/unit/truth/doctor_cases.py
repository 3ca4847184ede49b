"""Each cause that the doctor knows, the evidence for it, and what mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

from dsr_agent.kernel.capture import Captured
from dsr_agent.kernel.headers import IPIP, UDP, Leaving
from dsr_agent.kernel.namespaces import Elsewhere
from dsr_agent.kernel.policy import Route, Rule
from dsr_agent.kernel.stats import Received
from dsr_agent.kernel.sysctl_files import Setting
from dsr_agent.kernel.trace import ForeignDrop
from dsr_agent.state.count import Count
from dsr_agent.state.marks import TUNNEL_ADDRESS
from dsr_agent.state.model import Link, Outer
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.table import GuardPolicy
from dsr_agent.truth.doctor.causes import Cause, Stage, StageResult
from dsr_agent.truth.doctor.evidence import Counters, Evidence, Word
from dsr_agent.truth.listeners import Verdict
from dsr_agent.truth.probe import Pair
from tests.unit.truth.doctor_evidence import (
    BALANCER,
    CLIENT,
    CLIENT6,
    GATEWAY,
    HERE,
    LINK,
    OUT,
    SERVED,
    STRANGER,
    TUNNEL,
    V4,
    V6,
    arriving,
    broken,
    deaf_card,
    elsewhere,
    evidence,
    file,
    forwards,
    held,
    host,
    listens,
    lost,
    obstacle,
    other_guard,
    quiet_arp,
    says,
    sent,
    tentative,
    undeclared_elsewhere,
    unguarded,
    vrf,
)

DROP = ForeignDrop("inet", "fw", "input", "its policy", f"UDP from {CLIENT} to {V4}", str(CLIENT), str(V4))
AT_CARD = replace(DROP, packet=f"GRE from {BALANCER} to {HERE}", source=str(BALANCER), target=str(HERE))
STRICT = Setting("/etc/sysctl.d/50.conf", 3, "net/ipv4/conf/*/rp_filter", "1")
STRICT_PATH = "net/ipv4/conf/dsr-gre/rp_filter"
UNREACHABLE = Rule(4, 20, "unreachable", 0, ip_network(f"{V4}/32"))
BLACKHOLE = Rule(4, 5, "blackhole", 0, iif="dsr-gre")
SILENT = replace(TUNNEL, load_balancers=(*TUNNEL.load_balancers, ip_network("10.9.0.6/32")))
REFUSED, FILTERED = {CLIENT: Route(refused="x")}, lost("TcpExtIPReversePathFilter")
TUNL0 = Link("gre0", "gre", up=True, outer=Outer())

FAULT, WARNING = StageResult.FAULT, StageResult.WARNING

CASES: list[tuple[Cause, Stage, StageResult, Callable[[], Evidence], str]] = [
    (Cause.MODULE_FORBIDDEN, Stage.MODULE, FAULT, lambda: obstacle("it is blacklisted in /x"), "do this"),
    (Cause.MODULE_MISSING, Stage.MODULE, FAULT, lambda: broken("dsr-gre", "ip_gre"), "modprobe ip_gre"),
    (Cause.MODULE_MISSING, Stage.MODULE, FAULT, lambda: obstacle("no such module"), "do this"),
    (Cause.LOCAL_MISSING, Stage.LOCAL, FAULT, undeclared_elsewhere, "write in its [[tunnel]]"),
    (Cause.LOCAL_MISSING, Stage.LOCAL, FAULT, lambda: broken("eth0"), "no packet can arrive"),
    (Cause.GUARD_UNAVAILABLE, Stage.GUARD, FAULT, unguarded, "install it"),
    (Cause.TUNNEL_MASKED, Stage.TUNNEL, FAULT, lambda: broken("dsr-gre", links=[TUNL0]), "dsr-agent apply"),
    (
        Cause.TUNNEL_MASKED,
        Stage.TUNNEL,
        FAULT,
        lambda: evidence(sights={Pair(V4, "dsr-gre"): Sight(Seen.ELSEWHERE, "spy")}),
        "ip link del spy",
    ),
    (
        Cause.TUNNEL_MASKED,
        Stage.TUNNEL,
        FAULT,
        lambda: evidence(sights={Pair(V4, "dsr-gre"): Sight(Seen.ELSEWHERE, "gre0")}),
        "ip link set gre0 down",
    ),
    (Cause.TUNNEL_MISSING, Stage.TUNNEL, FAULT, lambda: broken("dsr-gre"), "dsr-agent apply"),
    (Cause.TUNNEL_DOWN, Stage.TUNNEL, FAULT, lambda: broken(links=[replace(LINK, up=False)]), "ip link set dsr-gre up"),
    (
        Cause.TUNNEL_OTHER,
        Stage.TUNNEL,
        FAULT,
        lambda: broken(links=[replace(LINK, outer=Outer(local=HERE, key=9))]),
        "dsr-agent apply",
    ),
    (Cause.TUNNEL_OTHER, Stage.TUNNEL, FAULT, lambda: evidence(sights=lost(refused=1)), "dsr-agent apply"),
    (
        Cause.TUNNEL_OTHER,
        Stage.TUNNEL,
        FAULT,
        lambda: replace(vrf(replace(LINK, master="red")), sights=lost(tunnel=1), answers={}),
        "ip link set dsr-gre nomaster",
    ),
    (
        Cause.TUNNEL_DISABLED_IPV6,
        Stage.TUNNEL,
        FAULT,
        lambda: broken("ipv6"),
        "sysctl -w net/ipv6/conf/dsr-gre/disable_ipv6=0",
    ),
    (Cause.GUARD_MISSING, Stage.GUARD, FAULT, lambda: evidence(None, host(file(), "table")), "dsr-agent apply"),
    (Cause.GUARD_OTHER, Stage.GUARD, FAULT, other_guard, "dsr-agent apply"),
    (
        Cause.BALANCER_SENDS_OTHER,
        Stage.ARRIVING,
        FAULT,
        lambda: sent(arriving(protocol=IPIP)),
        'write encapsulation = "ipip" in [[tunnel]] dsr-gre',
    ),
    (Cause.BALANCER_SENDS_KEY, Stage.ARRIVING, FAULT, lambda: sent(arriving(key=7)), "write key = 7 in"),
    (
        Cause.BALANCER_SENDS_CHECKSUM,
        Stage.ARRIVING,
        FAULT,
        lambda: sent(arriving(flags=0x8000)),
        "write checksum = true in",
    ),
    (
        Cause.BALANCER_SENDS_ELSEWHERE,
        Stage.ARRIVING,
        FAULT,
        lambda: sent(arriving(destination=IPv4Address("10.0.0.3"))),
        'write local = "10.0.0.3"',
    ),
    (
        Cause.GUARD_REFUSES_SOURCE,
        Stage.ARRIVING,
        FAULT,
        lambda: sent(arriving(source=STRANGER)),
        f'add "{STRANGER}" to load_balancers',
    ),
    (
        Cause.GUARD_REFUSES_SOURCE,
        Stage.ARRIVING,
        WARNING,
        lambda: sent(arriving(), arriving(source=STRANGER)),
        f'add "{STRANGER}" to load_balancers',
    ),
    (
        Cause.GUARD_REFUSES_PROTOCOL,
        Stage.GUARD,
        WARNING,
        lambda: evidence(captured=None, after=Counters(guard={("protocol", ""): Count(2, 99)})),
        "tcpdump",
    ),
    (
        Cause.GUARD_REFUSES_INNER,
        Stage.GUARD,
        FAULT,
        lambda: sent(arriving(), arriving(ip_address("192.0.2.99"))),
        'add [[vip]] address = "192.0.2.99"',
    ),
    (
        Cause.GUARD_REFUSES_INNER,
        Stage.GUARD,
        WARNING,
        lambda: evidence(after=Counters(guard={("service", ""): Count(2, 99)})),
        "compare services",
    ),
    (Cause.VIP_HELD, Stage.VIP, FAULT, lambda: held(str(V4)), f"dsr-agent release {V4}"),
    (Cause.VIP_HELD, Stage.VIP, WARNING, held, f"dsr-agent release {V4}"),
    (Cause.VIP_ELSEWHERE, Stage.VIP, FAULT, elsewhere, "dsr-agent apply"),
    (Cause.VIP_MISSING, Stage.VIP, FAULT, lambda: broken(str(V4)), "dsr-agent apply"),
    (
        Cause.VIP_MISSING,
        Stage.VIP,
        FAULT,
        lambda: evidence(sights={Pair(V4, "dsr-gre"): Sight(Seen.NO_VIP)}),
        f"ip route add local {V4} dev lo table local",
    ),
    (Cause.IPV6_TENTATIVE, Stage.VIP, FAULT, tentative, "nodad"),
    (
        Cause.FIREWALL_DROPS,
        Stage.FIREWALL,
        FAULT,
        lambda: evidence(sights=lost(tunnel=1), drops=(DROP,)),
        f"nft insert rule inet fw input ip daddr {V4} accept",
    ),
    (Cause.FIREWALL_DROPS, Stage.FIREWALL, WARNING, lambda: evidence(drops=(DROP,)), "nft insert rule"),
    (
        Cause.FIREWALL_DROPS,
        Stage.FIREWALL,
        FAULT,
        lambda: evidence(drops=(AT_CARD,)),
        f"nft insert rule inet fw input ip saddr {BALANCER} ip daddr {HERE} accept",
    ),
    (
        Cause.REVERSE_PATH_SYSCTL_D,
        Stage.REVERSE_PATH,
        FAULT,
        lambda: replace(broken(rp_filter=1), sysctl_files={STRICT_PATH: (STRICT,)}),
        "into /etc/sysctl.d/50.conf after line 3",
    ),
    (Cause.REVERSE_PATH, Stage.REVERSE_PATH, FAULT, lambda: broken(rp_filter=1), f"sysctl -w {STRICT_PATH}=2"),
    (Cause.REVERSE_PATH, Stage.REVERSE_PATH, FAULT, lambda: broken(str(TUNNEL_ADDRESS)), "dsr-agent apply"),
    (Cause.REVERSE_PATH, Stage.REVERSE_PATH, FAULT, lambda: evidence(sights=FILTERED), f"sysctl -w {STRICT_PATH}=2"),
    (
        Cause.NO_CLIENT_ROUTE,
        Stage.REVERSE_PATH,
        FAULT,
        lambda: evidence(ordinary=REFUSED, answers={V4: REFUSED}),
        "ip route add default via GATEWAY",
    ),
    (
        Cause.VIP_RULE,
        Stage.VIP,
        FAULT,
        lambda: evidence(sights=lost("IpInAddrErrors"), rules=(BLACKHOLE,)),
        "ip rule del pref 5",
    ),
    (Cause.VIP_RULE, Stage.VIP, FAULT, lambda: evidence(sights=lost("IpInAddrErrors")), "ip rule list"),
    (Cause.FIREWALL_UNTOLD, Stage.FIREWALL, FAULT, lambda: evidence(sights=lost(tunnel=1)), "nft -a list ruleset"),
    (Cause.FIREWALL_UNTOLD, Stage.FIREWALL, FAULT, lambda: sent(*[arriving()] * 3), "nft -a list ruleset"),
    (
        Cause.SERVICE_OTHER_NAMESPACE,
        Stage.LISTENER,
        FAULT,
        lambda: listens(Verdict.NOBODY, elsewhere={SERVED: Elsewhere(SERVED, "radiusd (process 9)")}),
        "network namespace",
    ),
    (Cause.LISTENING_ELSEWHERE, Stage.LISTENER, FAULT, lambda: listens(Verdict.ELSEWHERE), "port 1812"),
    (
        Cause.NOT_LISTENING,
        Stage.LISTENER,
        FAULT,
        lambda: listens(Verdict.NOBODY),
        f"start the application that serves {SERVED}, bound to",
    ),
    (
        Cause.ANSWERS_WRONG_ADDRESS,
        Stage.ANSWER,
        FAULT,
        lambda: evidence(captured=Captured((arriving(),), (Leaving(HERE, CLIENT, 1812, "eth0"),))),
        f"bind the application to {V4}",
    ),
    (
        Cause.CHECK_FAILED,
        Stage.ANSWER,
        FAULT,
        lambda: says(not_ready={str(V4): ["radius check: no answer"]}),
        "dsr-agent status",
    ),
    (
        Cause.WAY_BACK_RULE,
        Stage.WAY_BACK,
        FAULT,
        lambda: evidence(answers={V4: REFUSED}, rules=(UNREACHABLE,), sights=FILTERED),
        "ip rule del pref 20",
    ),
    (Cause.WAY_BACK_VRF, Stage.WAY_BACK, FAULT, vrf, 'write vrf = "red" in the [[tunnel]]'),
    (
        Cause.WAY_BACK_ASYMMETRIC,
        Stage.WAY_BACK,
        WARNING,
        lambda: replace(vrf(), answers={V4: {CLIENT: Route("eth1")}}, captured=sent(arriving()).captured),
        f"ip route get {CLIENT} from {V4}",
    ),
    (
        Cause.WAY_BACK_VRF,
        Stage.WAY_BACK,
        FAULT,
        lambda: replace(vrf(), sights=lost("IcmpOutDestUnreachs"), ordinary={CLIENT: Route(refused="unreachable")}),
        'write vrf = "red" in the [[tunnel]]',
    ),
    (
        Cause.WAY_BACK_MISSING,
        Stage.WAY_BACK,
        FAULT,
        lambda: evidence(answers={V6: {CLIENT6: Route(refused="x")}}),
        "ip -6 route add default via GATEWAY",
    ),
    (
        Cause.WAY_BACK_MISSING,
        Stage.WAY_BACK,
        FAULT,
        lambda: evidence(ordinary={CLIENT6: Route(kind="blackhole")}, answers={V6: {CLIENT6: Route(kind="blackhole")}}),
        "ip -6 route del blackhole",
    ),
    (
        Cause.WAY_BACK_MISSING,
        Stage.WAY_BACK,
        FAULT,
        lambda: evidence(silent=frozenset({GATEWAY})),
        "ip route replace default via GATEWAY dev eth0",
    ),
    (
        Cause.WAY_BACK_RULE,
        Stage.WAY_BACK,
        FAULT,
        lambda: evidence(
            answers={V4: {CLIENT: Route("eth0", GATEWAY.ip, 77)}},
            ordinary={CLIENT: Route("eth0", ip_address("10.0.0.254"), 254)},
            rules=(replace(UNREACHABLE, action="lookup", table=77),),
            silent=frozenset({GATEWAY}),
        ),
        "ip rule del pref 20",
    ),
    (
        Cause.MTU_BLACK_HOLE,
        Stage.MTU,
        FAULT,
        lambda: sent(arriving(), arriving(fragment=True), after=Counters({"IpReasmFails": 4})),
        "raise the MTU between balancer and server to 1524",
    ),
    (
        Cause.MTU_BLACK_HOLE,
        Stage.MTU,
        WARNING,
        lambda: evidence(file(guard=GuardPolicy(mss=1460))),
        'write mss = "auto"',
    ),
    (
        Cause.MTU_BLACK_HOLE,
        Stage.MTU,
        WARNING,
        lambda: evidence(to_balancers={BALANCER: replace(OUT, mtu=1400)}, told_mss={4: 1436}),
        "write mss = 1316 in [guard]",
    ),
    (Cause.NOTHING_ARRIVES, Stage.ARRIVING, WARNING, sent, "let protocol 47 pass"),
    (Cause.CARD_DOWN, Stage.ARRIVING, FAULT, lambda: deaf_card(up=False, carrier=False), "ip link set eth0 up"),
    (Cause.NO_CARRIER, Stage.ARRIVING, FAULT, lambda: deaf_card(up=True, carrier=False), "cable"),
    (
        Cause.BALANCER_SILENT,
        Stage.ARRIVING,
        WARNING,
        lambda: evidence(file(tunnels={"dsr-gre": SILENT})),
        "see whether that is a standby",
    ),
    (Cause.AGENT_STUCK, Stage.AGENT, WARNING, lambda: evidence(agent=Word(7)), "systemctl restart dsr-agent"),
    (Cause.AGENT_NOT_RUNNING, Stage.AGENT, WARNING, lambda: evidence(agent=Word()), "systemctl start"),
    (
        Cause.FILE_REFUSED,
        Stage.AGENT,
        WARNING,
        lambda: says(reload={"successful": False, "refusals": ["line 3"]}),
        "dsr-agent check",
    ),
    (Cause.FIGHT, Stage.AGENT, WARNING, lambda: says(fights={"dsr-gre": 12}), "journalctl -u dsr-agent"),
    (
        Cause.DRAINED,
        Stage.AGENT,
        WARNING,
        lambda: says(drained={"host": None, "vips": [{"vip": str(V4)}]}),
        f"dsr-agent undrain {V4}",
    ),
    (Cause.TUNNEL_SETTINGS, Stage.TUNNEL, WARNING, forwards, "sysctl -w net/ipv4/conf/dsr-gre/forwarding=0"),
    (
        Cause.UNANSWERED,
        Stage.ANSWER,
        WARNING,
        lambda: sent(*[arriving()] * 3, after=Counters(links={"dsr-gre": Received(9)}, guard={})),
        "look into the application's log",
    ),
    (
        Cause.ANSWERS_WRONG_ADDRESS,
        Stage.ANSWER,
        FAULT,
        lambda: says(
            not_ready={str(V4): ["radius check: it was answered from 10.0.0.2"]},
            checks=[{"vip": str(V4), "check": "radius", "reason": "wrong_source"}],
        ),
        f"bind the application to {V4}",
    ),
    (
        Cause.BALANCER_SENDS_OTHER,
        Stage.ARRIVING,
        FAULT,
        lambda: sent(arriving(protocol=UDP), arriving(V6)),
        "have the load balancer send gre",
    ),
    (Cause.LISTENING_WILDCARD, Stage.ANSWER, WARNING, lambda: listens(Verdict.WILDCARD), "IP_PKTINFO"),
    (
        Cause.WAY_BACK_ASYMMETRIC,
        Stage.WAY_BACK,
        WARNING,
        lambda: evidence(answers={V4: {CLIENT: Route("eth1")}}),
        f"ip route get {CLIENT} from {V4}",
    ),
    (Cause.ARP_ANSWERS, Stage.VIP, WARNING, lambda: quiet_arp(0), "sysctl -w net/ipv4/conf/eth0/arp_ignore=1"),
]
