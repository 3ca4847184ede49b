"""
Our mark in the kernel: how a freshly started agent, with a different file, knows that something is ours.

Addresses carry `IFA_PROTO` (kernel 5.18 and later) and, for IPv4, an alias label; somebody's ``ip addr replace`` wipes
the first and leaves the second (facts A4). Links carry a group, set in the very request that creates them, and an
alias for people, which the kernel takes only afterwards. The group is a number nobody picks by chance, because a link
that carries it and is not desired is deleted.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from dsr_agent.state.model import Address, Link

ADDRESS_PROTO = 0xD5
LINK_GROUP = 0xD5D5
# On the self-test's packets, inside this host only. Small, because others give meaning to single higher bits:
# kube-proxy drops what carries 0x8000.
PROBE_MARK = 0xD5
LABEL_SUFFIX = ":dsr"
LONGEST_NAME = 15  # IFNAMSIZ - 1, for link names and address labels alike
# Loose reverse-path filtering drops everything on a link without an IPv4 address (facts B2), so each tunnel carries
# one: the dummy address of RFC 7600, of host scope, that nobody ever talks to or from.
TUNNEL_ADDRESS = IPv4Address("192.0.0.8")
_STAND_IN, _OTHER_STAND_IN = ".new", ".alt"

ALIAS = "dsr-agent: decapsulates for VIPs; removed by dsr-agent teardown"
# A link that somebody else made, and that keeps its name: a link of ours under a wrong name is renamed.
ADOPTED_ALIAS = "dsr-agent: adopted; removed by dsr-agent teardown"

# The kernel makes these by itself when a module is loaded; one that is up decapsulates for every address of the host.
FALLBACK_DEVICES = frozenset(
    {"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip6_vti0", "ip_vti0"}
)

TUNNEL_KINDS = frozenset({"ipip", "gre", "sit", "ip6tnl", "ip6gre"})


def label_for(link: str) -> str:
    """The alias label of our IPv4 addresses on *link*; empty where it would not fit the kernel's 15 characters."""
    label = link + LABEL_SUFFIX
    return label if len(label) <= LONGEST_NAME else ""


def stand_in_name(name: str) -> str:
    """What the link that replaces *name* is called until it takes over the name."""
    stand_in = name[: LONGEST_NAME - len(_STAND_IN)] + _STAND_IN
    return stand_in if stand_in != name else name.removesuffix(_STAND_IN) + _OTHER_STAND_IN


def owns_address(address: Address) -> bool:
    """Whether *address* carries our mark, either one."""
    return address.proto == ADDRESS_PROTO or address.label.endswith(LABEL_SUFFIX)


def owns_link(link: Link) -> bool:
    """Whether *link* carries our mark. Only tunnels can: a group alone never makes another kind of link ours."""
    return link.group == LINK_GROUP and link.kind in TUNNEL_KINDS
