"""
The faults that a real server can have, in the packet's order: what readiness and the doctor have to say of each.

Every row of the table of signatures that this version can have is here (it takes no outer IPv6 and makes no GUE port),
the faults that other tools make, and those of applications. Where several words name a fault rightly, all are there.
"""

from __future__ import annotations

import contextlib

from tests.lab import fault_parts as parts
from tests.lab import tacacs
from tests.lab.fault_parts import (
    ALL,
    ALL4,
    BY_IPVS,
    GRE,
    IPIP,
    KEYED,
    LOCAL,
    PORT_OF_B,
    RADIUS,
    SIX,
    STOPPED,
    TACACS,
    WEB,
    A,
    B,
    Fault,
    again,
    all_of,
    balancer,
    dummy_instead,
    file,
    firewall,
    hang,
    in_vrf,
    instead,
    keyed_tunnel,
    keyed_with,
    no_file,
    no_firewall,
    nothing,
    over_and_over,
    peace,
    router,
    sent_as,
    server,
    shell,
    sysctl,
    unhang,
)
from tests.lab.fault_world import Deaf, Everywhere, Web, echo, freeradius
from tests.lab.guarded import nft
from tests.lab.world import BALANCER_IP

MODPROBE, SYSCTL = "/etc/modprobe.d/lab.conf", "/etc/sysctl.d/99-lab.conf"
FIRST, DEAD = "10.3.0.1", "10.3.0.99"  # the router, and nobody
PINNED, UNPINNED = f"route add {BALANCER_IP} via {FIRST}", f"route del {BALANCER_IP} via {FIRST}"
DEFAULT, DEFAULT6 = f"route replace default via {FIRST}", "route replace default via fd00:3::1"
TUN_IPIP = f"type ipip local {LOCAL}"
ON_CARD = "address replace fd00:3::11/64 dev eth0 nodad"

_NOT_THE_CARD = "the self-test does not come by the card"
_NOT_THE_WAY_BACK = "the self-test gets no answer, so it does not see the way back"
_AS_DECLARED = "the self-test sends as the file says, and the balancer does not"
_SILENCE = "no packet at all may be no traffic"

MODULES = (
    Fault(
        "module ipip unloaded and forbidden",
        "module_forbidden",
        all_of(file(MODPROBE, "install ipip /bin/false\n"), shell("modprobe -r ipip")),
        no_file(MODPROBE),
        IPIP,
    ),
    Fault(
        "module ip_gre unloaded and forbidden",
        "module_forbidden",
        all_of(file(MODPROBE, "install ip_gre /bin/false\n"), shell("modprobe -r ip_gre")),
        all_of(no_file(MODPROBE), shell("modprobe ip_gre"), keyed_tunnel),
        (*GRE, KEYED),
    ),
    Fault("module ipip unloaded", "module_missing", shell("modprobe -r ipip"), cut=IPIP, agent=STOPPED),
)

_SPY = f"link add spy {TUN_IPIP} remote {BALANCER_IP}"
TUNNELS = (
    Fault(
        "tunnel replaced by a dummy of its name",
        "tunnel_other tunnel_missing",
        dummy_instead("dsr-ipip"),
        server("link del dsr-ipip"),
        IPIP,
    ),
    Fault(
        "tunnel set down over and over",
        "tunnel_down",
        over_and_over("ip link set dsr-gre down"),
        peace,
        GRE,
        fresh=True,
    ),
    Fault(
        "closer tunnel takes the packets",
        "tunnel_masked",
        server(_SPY, "link set spy up"),
        server("link del spy"),
        IPIP,
        (),
        "the packets arrive, and by a link that nobody looks after",
    ),
    Fault("tunnel missing", "tunnel_missing", server("link del dsr-gre"), cut=GRE, agent=STOPPED),
    Fault("tunnel down", "tunnel_down", server("link set dsr-ipip down"), cut=IPIP, agent=STOPPED),
    Fault(
        "tunnel down, and tunl0 takes its packets",
        "tunnel_masked",
        server("link set dsr-ipip down", "link set tunl0 up"),
        all_of(server("link set tunl0 down"), lambda scene: scene.apply()),
        cut=(),
        agent=STOPPED,
    ),
    Fault(
        "tunnel with another local address",
        "tunnel_other",
        server("link change dsr-ipip type ipip local 10.3.0.77"),
        cut=IPIP,
        agent=STOPPED,
    ),
    Fault(
        "tunnel with another remote end",
        "tunnel_other tunnel_missing",
        server(
            "link del dsr-ipip",
            f"link add dsr-ipip {TUN_IPIP} remote 10.2.0.99",
            "link set dsr-ipip group 54741",
            "link set dsr-ipip up",
        ),
        cut=IPIP,
        agent=STOPPED,
    ),
    Fault(
        "tunnel of another kind",
        "tunnel_other tunnel_missing",
        server(
            "link del dsr-ipip",
            f"link add dsr-ipip type gre local {LOCAL} key 99",
            "link set dsr-ipip group 54741",
            "link set dsr-ipip up",
        ),
        cut=IPIP,
        agent=STOPPED,
    ),
    Fault(
        "tunnel with another key",
        "tunnel_other",
        server(f"link change dsr-keyed type gre local {LOCAL} key 9"),
        cut=(KEYED,),
        agent=STOPPED,
    ),
    Fault(
        "tunnel wants checksums",
        "tunnel_other",
        server(f"link change dsr-gre type gre local {LOCAL} icsum"),
        cut=GRE,
        agent=STOPPED,
    ),
    Fault(
        "tunnel without IPv6",
        "tunnel_disabled_ipv6",
        sysctl("ipv6/conf/dsr-gre/disable_ipv6", 1),
        cut=(SIX,),
        agent=STOPPED,
    ),
    Fault(
        "local address gone",
        "local_missing",
        server(f"address del {LOCAL}/24 dev eth0"),
        server(f"address add {LOCAL}/24 dev eth0", DEFAULT),
        ALL,
    ),
)

GUARD = (
    Fault(
        "guard deleted",
        "guard_missing",
        lambda _: nft("delete", "table", "inet", "dsr_agent"),
        cut=(),
        agent=STOPPED,
        nftables=True,
    ),
    Fault(
        "another firewall drops on the card",
        "firewall_drops",
        firewall("input priority 0", "iifname eth0 ip protocol 4 drop"),
        no_firewall,
        (),
        IPIP,
        _NOT_THE_CARD,
        nftables=True,
    ),
    Fault(
        "another firewall drops IPIP",
        "firewall_drops",
        firewall("input priority 0", "ip protocol 4 drop"),
        no_firewall,
        IPIP,
        nftables=True,
    ),
    Fault(
        "another firewall drops what comes out of the tunnel",
        "firewall_drops",
        firewall("prerouting priority -400", "iifname dsr-ipip drop"),
        no_firewall,
        IPIP,
        nftables=True,
    ),
    Fault(
        "another firewall drops a VIP's service",
        "firewall_drops",
        firewall("input priority 0", f"ip daddr {A} udp dport {parts.PORT} drop"),
        no_firewall,
        (),
        (A,),
        "the self-test comes to another port",
        nftables=True,
    ),
    Fault(
        "another firewall drops a VIP's answers",
        "firewall_drops",
        firewall("output priority 0", f"ip saddr {A} udp sport {parts.PORT} drop"),
        no_firewall,
        (),
        (A,),
        _NOT_THE_WAY_BACK,
        nftables=True,
    ),
)

_STRICT = "ipv4/conf/dsr-ipip/rp_filter"
_LINE = "net.ipv4.conf.dsr-ipip.rp_filter = 1\n"
REVERSE_PATH = (
    Fault(
        "rp_filter set by sysctl.d over and over",
        "reverse_path_sysctl_d",
        all_of(file(SYSCTL, _LINE), over_and_over(f"echo 1 > /proc/sys/net/{_STRICT}")),
        all_of(peace, no_file(SYSCTL)),
        IPIP,
        fresh=True,
    ),
    Fault(
        "rp_filter set by sysctl.d",
        "reverse_path_sysctl_d",
        all_of(file(SYSCTL, _LINE), sysctl(_STRICT, 1)),
        all_of(no_file(SYSCTL), lambda scene: scene.apply()),
        cut=IPIP,
        agent=STOPPED,
    ),
    Fault("rp_filter strict", "reverse_path", sysctl(_STRICT, 1), cut=IPIP, agent=STOPPED),
    Fault(
        "rp_filter, and the tunnel has no address",
        "reverse_path",
        server("address flush dev dsr-ipip"),
        cut=IPIP,
        agent=STOPPED,
    ),
    Fault(
        "default route gone",
        "no_client_route way_back_missing",
        server("route del default"),
        server(DEFAULT),
        ALL,
        ALL4,
        "without a route to them it is not known where balancers send to",
    ),
    Fault(
        "default route gone, balancers have their own",
        "no_client_route way_back_missing",
        server(PINNED, "route del default"),
        server(DEFAULT, UNPINNED),
        (),
        ALL4,
        "the self-test's client is found by the default route, so it cannot tell",
    ),
    Fault(
        "default route gone, no rp_filter",
        "no_client_route way_back_missing",
        all_of(sysctl(_STRICT, 0), server("route del default")),
        all_of(server(DEFAULT), lambda scene: scene.apply()),
        cut=ALL4,
        agent=STOPPED,
    ),
)

_ASIDE = ("rule add pref 10 lookup local", "rule del pref 0 lookup local", "rule add pref 5 iif dsr-ipip blackhole")
_BACK = ("rule del pref 5", "rule add pref 0 lookup local", "rule del pref 10")
VIPS = (
    Fault(
        "VIP deleted over and over",
        "vip_missing",
        over_and_over(f"ip address del {A}/32 dev lo"),
        peace,
        (A,),
        fresh=True,
    ),
    Fault("VIP missing", "vip_missing", server(f"address del {A}/32 dev lo"), cut=(A,), agent=STOPPED),
    Fault(
        "VIP missing on a host that forwards",
        "vip_missing",
        all_of(sysctl("ipv4/ip_forward", 1), server(f"address del {A}/32 dev lo")),
        all_of(sysctl("ipv4/ip_forward", 0), lambda scene: scene.apply()),
        cut=(A,),
        agent=STOPPED,
    ),
    Fault(
        "local route of a VIP gone",
        "vip_missing",
        server(f"route del table local local {B} dev lo"),
        server(f"route add table local local {B} dev lo scope host src {B}"),
        (B,),
    ),
    Fault(
        "IPv6 switched off on lo",
        "vip_elsewhere vip_missing",
        sysctl("ipv6/conf/lo/disable_ipv6", 1),
        sysctl("ipv6/conf/lo/disable_ipv6", 0),
        (SIX,),
    ),
    Fault("a rule before the local table", "vip_rule", server(*_ASIDE), server(*_BACK), IPIP),
    Fault(
        "ARP is answered for VIPs",
        "arp_answers",
        all_of(sysctl("ipv4/conf/eth0/arp_ignore", 0), sysctl("ipv4/conf/all/arp_ignore", 0)),
        cut=(),
        agent=STOPPED,
        known="both are warnings, and that no agent runs, who would mend it, is told first",
    ),
)

_VRF, _NO_VRF = in_vrf("eth0", DEFAULT, ON_CARD, DEFAULT6)
_VRF_TUNNEL, _NO_VRF_TUNNEL = in_vrf("dsr-ipip")
WAY_BACK = (
    Fault(
        "rule drops a VIP's answers",
        "way_back_rule",
        server(f"rule add pref 50 from {A} blackhole"),
        server("rule del pref 50"),
        (A,),
    ),
    Fault(
        "rule sends a VIP's answers to nobody",
        "way_back_rule",
        server(f"rule add pref 50 from {A} lookup 77", f"route add default via {DEAD} table 77"),
        server("rule del pref 50", "route flush table 77"),
        (),
        (A,),
        _NOT_THE_WAY_BACK,
    ),
    Fault("card in a VRF", "way_back_vrf", _VRF, _NO_VRF, ALL),
    Fault("tunnel in a VRF", "way_back_vrf vip_rule tunnel_other", _VRF_TUNNEL, _NO_VRF_TUNNEL, IPIP),
    Fault(
        "default route to nobody",
        "way_back_missing way_back_asymmetric",
        server(f"route replace default via {DEAD}"),
        server(DEFAULT),
        (),
        ALL4,
        _NOT_THE_WAY_BACK,
    ),
    Fault(
        "default route by another card",
        "way_back_asymmetric",
        server(
            "link add other type dummy",
            "address add 10.9.0.1/24 dev other",
            "link set other up",
            PINNED,
            "route replace default via 10.9.0.2",
        ),
        server("link del other", DEFAULT, UNPINNED),
        (),
        ALL4,
        _NOT_THE_WAY_BACK,
    ),
    Fault(
        "clients' network blackholed",
        "no_client_route way_back_missing",
        server("route add blackhole 10.1.0.0/24"),
        server("route del blackhole 10.1.0.0/24"),
        (),
        ALL4,
        "the self-test's client is elsewhere",
    ),
    Fault(
        "MTU of the card above the network's",
        "mtu_black_hole",
        server("link set eth0 mtu 9000"),
        server("link set eth0 mtu 1500"),
        (),
        (),
        "only what is large gets lost",
        known="nothing on this host tells what the network carries",
    ),
)

BALANCERS = (
    Fault(
        "balancer sends GRE checksums",
        "balancer_sends_checksum",
        sent_as(B, "-i --tun-type gre --tun-csum"),
        sent_as(B, "-i --tun-type gre --tun-nocsum"),
        (),
        (B,),
        _AS_DECLARED,
    ),
    Fault(
        "balancer sends another GRE key",
        "balancer_sends_key",
        keyed_with("ikey 1 okey 8"),
        keyed_with(f"ikey 1 okey {parts.KEY}"),
        (),
        (KEYED,),
        _AS_DECLARED,
    ),
    Fault(
        "balancer sends no GRE key",
        "balancer_sends_key guard_refuses_inner",
        keyed_with("ikey 1"),
        keyed_with(f"ikey 1 okey {parts.KEY}"),
        (),
        (KEYED,),
        _AS_DECLARED,
        nftables=True,  # without a guard the other GRE tunnel takes them
    ),
    Fault(
        "balancer sends GUE",
        "balancer_sends_other",
        sent_as(A, "-i --tun-type gue --tun-port 6080"),
        sent_as(A, "-i"),
        (),
        (A,),
        _AS_DECLARED,
    ),
    Fault(
        "balancer sends from another address",
        "guard_refuses_source",
        balancer("address add 10.2.0.6/24 dev eth0", "route replace default via 10.2.0.1 src 10.2.0.6"),
        balancer("route replace default via 10.2.0.1 src 10.2.0.5", "address del 10.2.0.6/24 dev eth0"),
        (),
        BY_IPVS,
        _AS_DECLARED,
        nftables=True,
    ),
    Fault(
        "network lets no IPIP pass",
        "nothing_arrives balancer_silent",
        router(f"rule add pref 5 iif to-balancer to {LOCAL} ipproto 4 blackhole"),
        router("rule del pref 5"),
        (),
        IPIP,
        _SILENCE,
    ),
    Fault(
        "network lets nothing of the balancer pass",
        "nothing_arrives balancer_silent",
        router("rule add pref 5 iif to-balancer blackhole", "-6 rule add pref 5 iif to-balancer blackhole"),
        router("rule del pref 5", "-6 rule del pref 5"),
        (),
        ALL,
        _SILENCE,
    ),
)

_VISIBLE = "the kernel does not tell whether it uses IP_PKTINFO, and the file has no [[check]] of it"
APPLICATIONS = (
    Fault(
        "application stopped",
        "not_listening",
        instead(B, contextlib.nullcontext),
        again(B),
        (B,),
    ),
    Fault(
        "application on the host's address only",
        "listening_elsewhere",
        instead(B, echo(B, LOCAL)),
        again(B),
        (B,),
    ),
    Fault(
        "application on all addresses answers from another",
        "answers_wrong_address",
        instead(B, echo(B, "0.0.0.0")),
        again(B),
        (),
        (B,),
        _VISIBLE,
    ),
    Fault(
        "application hangs, and nobody asks it",
        "unanswered",
        instead(B, lambda: Deaf(B, PORT_OF_B)),
        again(B),
        (),
        (B,),
        "it listens, and the file has no [[check]] of it",
    ),
    Fault(
        "FreeRADIUS stopped",
        "not_listening",
        instead("radius", contextlib.nullcontext),
        again("radius"),
        (RADIUS,),
        (),
    ),
    Fault(
        "FreeRADIUS hangs",
        "check_failed",
        hang("radius"),
        unhang("radius"),
        (RADIUS,),
        (),
    ),
    Fault(
        "FreeRADIUS on the host's address only",
        "listening_elsewhere",
        instead("radius", lambda: freeradius(LOCAL)),
        again("radius"),
        (RADIUS,),
        (),
    ),
    Fault(
        "RADIUS on all addresses answers from another",
        "answers_wrong_address",
        instead("radius", Everywhere),
        again("radius"),
        (RADIUS,),
        (),
    ),
    Fault(
        "FreeRADIUS rejects",
        "check_failed",
        instead("radius", lambda: freeradius(password="another")),
        again("radius"),
        (RADIUS,),
        (),
    ),
    Fault(
        "FreeRADIUS does not know the client",
        "check_failed",
        instead("radius", lambda: freeradius(client="10.1.0.21")),
        again("radius"),
        (RADIUS,),
        (),
    ),
    Fault(
        "TACACS+ refuses connections",
        "not_listening",
        instead("tacacs", contextlib.nullcontext),
        again("tacacs"),
        (TACACS,),
        (),
    ),
    Fault(
        "TACACS+ hangs",
        "check_failed",
        instead("tacacs", lambda: Deaf(TACACS, tacacs.PORT, ["tcp"])),
        again("tacacs"),
        (TACACS,),
        (),
    ),
    Fault(
        "HTTP 500",
        "check_failed",
        instead("web", lambda: Web("500 Internal Server Error")),
        again("web"),
        (WEB,),
        (),
    ),
)

AGENT = (
    Fault(
        "drained",
        "drained",
        lambda scene: scene.agent.call("drain", A),
        lambda scene: scene.agent.call("undrain"),
        (A,),
        (),
    ),
    Fault("agent hangs", "agent_stuck", hang("agent"), unhang("agent"), ALL, ()),
    Fault("agent stopped", "agent_not_running", nothing, nothing, cut=(), agent=STOPPED),
)

FAULTS = sorted(
    (*MODULES, *TUNNELS, *GUARD, *REVERSE_PATH, *VIPS, *WAY_BACK, *BALANCERS, *APPLICATIONS, *AGENT),
    key=lambda fault: fault.agent == STOPPED,
)
