"""Any file and any host, for property tests: with left-overs of ours, and other people's things in every corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address

from hypothesis import strategies as st

from dsr_agent.config.desired import address_of
from dsr_agent.state.local import Local, LocalAddress, LocalOf, LocalTowards, Towards
from dsr_agent.state.marks import ADDRESS_PROTO, ADOPTED_ALIAS, ALIAS, LINK_GROUP, label_for
from dsr_agent.state.model import Address, Desired, Ip, Link, Outer, Tunnel, Vip
from dsr_agent.state.table import GuardPolicy
from tests.fake.machine import Machine, RefusedError

HERE, ALSO_HERE, NOT_HERE = (IPv4Address(ip) for ip in ("10.0.3.2", "10.0.4.2", "10.0.9.9"))
BALANCER, OTHER_BALANCER, UNREACHABLE = (IPv4Address(ip) for ip in ("10.1.0.5", "10.2.0.5", "10.3.0.5"))
VIPS: list[Ip] = [ip_address(ip) for ip in ("192.0.2.10", "192.0.2.11", "10.0.3.77", "2001:db8::10", "2001:db8::11")]
OTHERS: list[Ip] = [ip_address(ip) for ip in ("198.51.100.1", "192.0.0.8", "10.0.9.9", "2001:db8:1::1")]
DEVICES = ["lo", "lo", "lo", "eth0", "dummy0", "missing"]
TUNNEL_NAMES = ["dsr-ipip", "dsr-gre", "keyed", "fifteen-letters"]
LINK_NAMES = [*TUNNEL_NAMES, "dsr-ipip.new", "dsr-gre.new", "fifteen-let.new", "tun5", "old", "eth9"]


# --- the file -----------------------------------------------------------------------------------------------------

locals_: st.SearchStrategy[Local] = st.one_of(
    st.sampled_from([HERE, ALSO_HERE, NOT_HERE]).map(LocalAddress),
    st.sampled_from(["eth0", "eth1", "missing"]).map(LocalOf),
    st.sampled_from(
        [(BALANCER,), (OTHER_BALANCER,), (BALANCER, OTHER_BALANCER), (UNREACHABLE,), (BALANCER, UNREACHABLE), ()]
    ).map(LocalTowards),
)


@st.composite
def tunnels(draw: st.DrawFn, names: Sequence[str]) -> dict[str, Tunnel]:
    """Tunnels as a file can declare them: no two of one kind with the same key and local."""
    found: dict[str, Tunnel] = {}
    seen = set()
    for name in names:
        encapsulation = draw(st.sampled_from(["ipip", "gre"]))
        key = draw(st.sampled_from([None, 7])) if encapsulation == "gre" else None
        local = draw(locals_)
        if (encapsulation, key, local) in seen:
            continue
        seen.add((encapsulation, key, local))
        balancers = tuple(IPv4Network(t) for t in local.targets) if isinstance(local, LocalTowards) else ()
        checksum = encapsulation == "gre" and draw(st.booleans())
        found[name] = Tunnel(name, encapsulation, local, balancers, key, checksum)
    return found


@st.composite
def files(draw: st.DrawFn) -> Desired:
    """What a file can come to."""
    names = draw(st.lists(st.sampled_from(TUNNEL_NAMES), unique=True, max_size=3))
    made = draw(tunnels(names))
    ips = draw(st.lists(st.sampled_from(VIPS), unique=True, max_size=4))
    vips = [Vip(ip, str(ip), draw(st.sampled_from(DEVICES)), tuple(made)) for ip in ips]
    return Desired(
        tunnels=made,
        vips={vip.key: vip for vip in vips},
        addresses={vip.key: address_of(vip) for vip in vips},
        silence_arp=draw(st.booleans()),
        guard=draw(st.sampled_from([None, GuardPolicy(), GuardPolicy(required=False, services=True, mss=1400)])),
    )


# --- the host -----------------------------------------------------------------------------------------------------

marks = st.sampled_from(
    [
        (0, ""),
        (0, ""),
        (LINK_GROUP, ALIAS),
        (LINK_GROUP, ALIAS),
        (LINK_GROUP, ADOPTED_ALIAS),
        (LINK_GROUP, ""),
        (7, "x"),
    ]
)


@st.composite
def links(draw: st.DrawFn) -> Link:
    """A link that somebody made, or that we did."""
    kind = draw(st.sampled_from(["ipip", "ipip", "gre", "gre", "sit", "dummy"]))
    outer = None
    if kind != "dummy":
        outer = Outer(
            local=draw(st.sampled_from([HERE, ALSO_HERE, NOT_HERE, None])),
            remote=draw(st.sampled_from([None, None, BALANCER])),
            key=draw(st.sampled_from([None, 7, 99])) if kind == "gre" else None,
            checksum=draw(st.booleans()) if kind == "gre" else False,
            sequence=draw(st.sampled_from([False, False, True])) if kind == "gre" else False,
            protocol=draw(st.sampled_from([4, 0, 137])) if kind == "ipip" else 0,
            external=draw(st.sampled_from([False, False, False, True])),
        )
    group, alias = draw(marks)
    return Link(draw(st.sampled_from(LINK_NAMES)), kind, draw(st.booleans()), group, alias, outer)


@st.composite
def addresses(draw: st.DrawFn, names: Sequence[str]) -> Address:
    """An address on one of the links *names*: ours, ours with one mark wiped, or anybody's."""
    link = draw(st.sampled_from(names))
    ip = draw(st.sampled_from(VIPS + OTHERS))
    ipv4 = ip.version == 4
    return Address(
        link,
        ip,
        draw(st.sampled_from([ip.max_prefixlen, ip.max_prefixlen, 24 if ipv4 else 64])),
        draw(st.sampled_from([0, 254])) if ipv4 else 0,
        draw(st.sampled_from([0, ADDRESS_PROTO, 3])),
        draw(st.sampled_from([link, label_for(link)])) if ipv4 else "",
        draw(st.booleans()),
        draw(st.booleans()) if not ipv4 else False,
    )


@st.composite
def hosts(draw: st.DrawFn) -> Machine:
    """A host with a life of its own."""
    machine = Machine()
    machine.ipv6 = draw(st.sampled_from([True, True, True, False]))
    machine.keeps_proto = draw(st.sampled_from([True, True, True, False]))
    machine.put_sysctls("all")
    machine.put_link(Link("lo", up=draw(st.sampled_from([True, True, False]))))
    for name in ("eth0", "eth1", "dummy0"):
        machine.put_link(Link(name, "dummy" if name == "dummy0" else "", up=True, answers_arp=name != "dummy0"))
    machine.put_address(Address("eth0", HERE, 24, label="eth0"))
    machine.put_address(Address("eth1", ALSO_HERE, 24, label="eth1"))
    if draw(st.booleans()):
        machine.sources[Towards(BALANCER)] = HERE
        machine.sources[Towards(OTHER_BALANCER)] = draw(st.sampled_from([HERE, ALSO_HERE]))
        machine.sources[Towards(IPv4Address("240.0.0.1"))] = draw(st.sampled_from([HERE, ALSO_HERE]))
    for link in draw(st.lists(links(), max_size=5)):
        _have(machine, link)
    for address in draw(st.lists(addresses(list(machine.links)), max_size=5)):
        if (machine.ipv6 or address.ip.version == 4) and machine.same_address(address) is None:
            machine.put_address(address)
    for sysctl in draw(st.lists(st.sampled_from(sorted(machine.sysctls, key=str)), max_size=6)):
        machine.sysctls[sysctl] = draw(st.sampled_from([0, 1, 2]))
    for key in [key for key, address in machine.addresses.items() if machine.refuses(address)]:
        del machine.addresses[key]
    return machine


def _have(machine: Machine, link: Link) -> None:
    """Have *link* if a kernel could."""
    try:
        machine.add_link(replace(link, up=False))
    except RefusedError:
        return
    machine.put_link(link)
