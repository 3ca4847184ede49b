"""
The faults that a real server can have, in the packet's order: what readiness and the doctor have to say of each.

Every row of the table of signatures over IPv4 is here (IPv6 and UDP are in `test_doctor_kinds`), the faults that other
tools make, and those of applications. Where several words name a fault rightly, all are there.
"""

from __future__ import annotations

from tests.lab import fault_parts as parts
from tests.lab.fault_parts import (
    ALL,
    ALL4,
    DEFAULT,
    GRE,
    IPIP,
    KEYED,
    LOCAL,
    NOT_THE_WAY_BACK,
    PINNED,
    SIX,
    STOPPED,
    UNPINNED,
    A,
    B,
    Fault,
    all_of,
    dummy_instead,
    file,
    firewall,
    keyed_tunnel,
    no_file,
    no_firewall,
    over_and_over,
    peace,
    server,
    shell,
    sysctl,
)
from tests.lab.faults_around import AGENT, APPLICATIONS, BALANCERS, WAY_BACK
from tests.lab.guarded import nft
from tests.lab.world import BALANCER_IP

MODPROBE, SYSCTL = "/etc/modprobe.d/lab.conf", "/etc/sysctl.d/99-lab.conf"
TUN_IPIP = f"type ipip local {LOCAL}"

_NOT_THE_CARD = "the self-test does not come by the card"

_UNLOAD_IPIP = ("modprobe -r sit", "modprobe -r ipip")
MODULES = (
    Fault(
        "modules sit and ipip unloaded and forbidden",
        "module_forbidden",
        all_of(file(MODPROBE, "install sit /bin/false\ninstall ipip /bin/false\n"), shell(*_UNLOAD_IPIP)),
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
    Fault("module sit unloaded", "module_missing", shell(*_UNLOAD_IPIP), cut=IPIP, agent=STOPPED),
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
        server("link change dsr-ipip type sit local 10.3.0.77"),
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
        NOT_THE_WAY_BACK,
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

FAULTS = sorted(
    (*MODULES, *TUNNELS, *GUARD, *REVERSE_PATH, *VIPS, *WAY_BACK, *BALANCERS, *APPLICATIONS, *AGENT),
    key=lambda fault: fault.agent == STOPPED,
)
