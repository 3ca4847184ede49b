"""Requests and packets that meet each other: drawn from a few addresses, so that most of them mean something."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from hypothesis import strategies as st

from dsr_agent.guard.inner import GuardedVip
from dsr_agent.guard.marked import Marked, Unwrapped
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.ruleset import Request
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip, Network
from tests.unit.guard.packets import (
    GRE,
    ICMP,
    ICMPV6,
    IPIP,
    SCTP,
    SIX_IN_FOUR,
    TCP,
    UDP,
    Packet,
    datagram,
    gre,
    gue,
    ports,
)

LOCALS = [IPv4Address("10.0.3.2"), IPv4Address("10.0.3.3")]
NETWORKS: list[Network] = [
    IPv4Network(text)
    for text in (
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.0.0/24",
        "10.1.0.5",
        "10.1.0.6",
        "192.168.7.7",
        "10.1.0.0",
        "0.0.0.0/1",
    )
]
LOCALS6 = [IPv6Address("2001:db8:3::2"), IPv6Address("2001:db8:3::3")]
NETWORKS6: list[Network] = [
    IPv6Network(text)
    for text in ("2001:db8:1::/48", "2001:db8:1:1::/64", "2001:db8:1:1::5", "2001:db8:1::", "100::/64", "8000::/1")
]
SENDERS6 = [IPv6Address(text) for text in ("2001:db8:1:1::5", "2001:db8:1::", "2001:db8:1:9::9", "100::9", "fd00::5")]
STRANGERS6 = [IPv6Address(text) for text in ("64:ff9b::7", "2001:db8:9::9")]
UDP_PORTS = [6080, 5555]
SENDERS = [IPv4Address(text) for text in ("10.1.0.5", "10.1.0.6", "10.1.0.0", "10.1.9.9", "10.9.9.9", "192.168.7.7")]
STRANGERS = [IPv4Address(text) for text in ("198.51.100.1", "203.0.113.77", "172.16.0.9", "224.0.0.9")]
VIPS = [ip_address(text) for text in ("192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11")]
OWN = [ip_address(text) for text in ("10.0.3.2", "10.0.3.3", "192.0.0.8", "2001:db8:1::1", "fe80::9")]
CLIENTS = [ip_address(text) for text in ("198.51.100.1", "203.0.113.200", "2001:db8:9::9", "64:ff9b::1")]
NO_CLIENTS = [
    ip_address(text)
    for text in (
        "0.0.0.0", "127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255", "240.0.0.1", "223.255.255.255",
        "::", "::1", "ff02::1", "fe80::1", "febf::1", "fec0::1", "::ffff:198.51.100.1", "::fffe:0:1",
    )
]  # fmt: skip
KEYS = [None, 0, 7, 8, 0xFFFFFFFF]
SERVICES = ["tcp/80", "udp/80", "udp/1812", "tcp/443"]
LINKS = ["t0", "t1", "t1.new"]
PORTS = [80, 443, 1812, 8080]


@st.composite
def entrances(draw: st.DrawFn) -> tuple[Entrance, ...]:
    """A few, each of another name."""
    found: list[Entrance] = []
    for number in range(draw(st.integers(0, 4))):
        protocol = draw(st.sampled_from([IPIP, SIX_IN_FOUR, GRE, UDP]))
        version = draw(st.sampled_from([4, 4, 6]))
        locals_: list[Ip] = [*(LOCALS if version == 4 else LOCALS6)]
        local = draw(st.sampled_from(locals_))
        senders = draw(st.lists(st.sampled_from(NETWORKS if version == 4 else NETWORKS6), max_size=4, unique=True))
        key = draw(st.sampled_from(KEYS)) if protocol == GRE else None
        checksum = protocol == GRE and draw(st.booleans())
        port = draw(st.sampled_from(UDP_PORTS)) if protocol == UDP else None
        if port and any((entrance.local, entrance.port) == (local, port) for entrance in found):
            continue  # the kernel has it once
        direct = protocol == UDP and draw(st.booleans())
        found.append(Entrance(f"t{number}", local, protocol, tuple(senders), key, checksum, port, direct))
    return tuple(found)


doors: st.SearchStrategy[tuple[Ip, int]] = st.tuples(st.sampled_from([*LOCALS, *LOCALS6]), st.sampled_from(UDP_PORTS))


def requests() -> st.SearchStrategy[Request]:
    """What a file can ask for."""
    services = st.lists(st.sampled_from(SERVICES), max_size=2, unique=True).map(tuple)
    links = st.one_of(st.just(()), st.lists(st.sampled_from(LINKS), max_size=2, unique=True).map(tuple))
    targets = st.builds(GuardedVip, st.sampled_from(VIPS), services, links)
    return st.builds(
        Request,
        entrances=entrances(),
        vips=st.lists(targets, max_size=4, unique_by=lambda target: target.ip).map(tuple),
        own=st.frozensets(st.sampled_from(OWN), max_size=5),
        mss=st.dictionaries(st.sampled_from([4, 6]), st.sampled_from([1380, 1400]), max_size=2),
        shut=st.lists(doors, max_size=2, unique=True).map(tuple),
    )


CODES = [1, 7, 46, 63]


@st.composite
def unwrapped(draw: st.DrawFn) -> Unwrapped:
    """Code points of a tunnel or two, each for one VIP of a version, and VIPs that are sent to as they are."""
    arrivals: tuple[tuple[str, frozenset[Ip]], ...] = tuple(
        (name, draw(st.frozensets(st.sampled_from([*here[:1], *here6[:1]]), min_size=1)))
        for name, here, here6 in (("d0", LOCALS, LOCALS6), ("d1", LOCALS[1:], LOCALS6[1:]))[: draw(st.integers(0, 2))]
    )
    services = st.lists(st.sampled_from(SERVICES), max_size=2, unique=True).map(tuple)
    codes = {4: draw(st.permutations(CODES)), 6: draw(st.permutations(CODES))}
    vips: list[Ip] = draw(st.lists(st.sampled_from(VIPS), unique=True)) if arrivals else []
    marked = []
    for vip in vips:
        served, code = draw(services), codes[vip.version].pop()
        through = draw(st.lists(st.sampled_from([name for name, _ in arrivals]), min_size=1, unique=True))
        marked += [Marked(name, code, vip, served) for name in through]
    plain = draw(st.lists(st.sampled_from(VIPS), unique=True).map(tuple))
    ports = tuple((ip, UDP_PORTS[0]) for ip in draw(st.lists(st.sampled_from(LOCALS), unique=True)))
    return Unwrapped(tuple(marked), arrivals, plain, ports)


_gre_headers = st.builds(
    gre,
    st.sampled_from(KEYS),
    checksum=st.booleans(),
    flags=st.sampled_from([0, 0, 0x1000, *(1 << bit for bit in range(16))]),
    ethertype=st.sampled_from([0x0800, 0x86DD, 0x6558, 0x880B]),
)
# A header that is cut short, and one whose flags lie about what follows.
_odd_headers = st.one_of(
    st.builds(lambda header, length: header[:length], _gre_headers, st.integers(0, 12)), st.binary(max_size=16)
)
_fragments = st.sampled_from([None, None, None, None, 0, 1, 185, 0x1FFF])


@st.composite
def bare(draw: st.DrawFn) -> tuple[Request, Packet]:
    """A file, and a packet that is not wrapped: with a code point that means something, or as it is, or nearly so."""
    found = draw(unwrapped())
    own: frozenset[Ip] = frozenset([*OWN, *VIPS])
    version = draw(st.sampled_from([4, 6]))
    here: list[Ip] = [ip for ip in (*LOCALS, *LOCALS6, *VIPS) if ip.version == version]
    sources: list[Ip] = [ip for ip in (*CLIENTS, *CLIENTS, *OWN, *VIPS, *NO_CLIENTS) if ip.version == version]
    declared = [int(service.split("/")[1]) for item in found.marked for service in item.services]
    packet = Packet(
        draw(st.sampled_from(sources)),
        draw(st.sampled_from(here)),
        draw(st.sampled_from([TCP, TCP, UDP, UDP, ICMP, ICMPV6, SCTP, IPIP, SIX_IN_FOUR, GRE])),
        draw(st.one_of(st.sampled_from([*declared, *PORTS, *UDP_PORTS]).map(ports), st.binary(max_size=5))),
        draw(_fragments),
        draw(st.sampled_from(["eth0", "eth0", "lo"])),
        draw(st.sampled_from([0, 0, 0, LINK_GROUP])),
        dscp=draw(st.sampled_from([*CODES, *CODES, 0, 2])),
    )
    return Request((), own=own, unwrapped=found), packet


@st.composite
def arriving(draw: st.DrawFn) -> tuple[Request, Packet]:
    """A file, and a packet from the segment or a link that is not ours: as the file declares it, or nearly so."""
    request = draw(requests())
    packet = draw(st.one_of(_wrapped(request), _anything()) if request.entrances else _anything())
    return request, replace(packet, iifgroup=draw(st.sampled_from([0, 0, 1, LINK_GROUP + 1])))


_gue_headers = st.builds(
    gue,
    st.sampled_from([IPIP, SIX_IN_FOUR, GRE, TCP]),
    first=st.sampled_from([0, 0, 1, 0x1F, 0x20, 0x40, 0x45, 0x60, 0x80]),
    flags=st.sampled_from([0, 1, 0x8000]),
)
_in_udp = st.builds(
    lambda port, inside, length: datagram(port, inside)[:length],
    st.sampled_from([*UDP_PORTS, *UDP_PORTS, 53]),
    st.one_of(_gue_headers, st.binary(max_size=4)),
    st.sampled_from([12, 12, 12, 10, 9, 8, 4, 2]),
)


@st.composite
def _wrapped(draw: st.DrawFn, request: Request) -> Packet:
    entrance = draw(st.sampled_from(request.entrances))
    if entrance.port:
        good = st.sampled_from([b"\x45", b"\x60"] if entrance.direct else [gue(), gue(SIX_IN_FOUR, first=3)])
        content = datagram(entrance.port, draw(st.one_of(good, _gue_headers)))
    else:
        flags = draw(st.sampled_from([0, 0, 0, 0x1000, *(1 << bit for bit in range(16))]))
        ethertype = draw(st.sampled_from([0x0800, 0x86DD, 0x6558]))
        content = gre(entrance.key, checksum=entrance.checksum, flags=flags, ethertype=ethertype)
    strangers: list[Ip] = [*(STRANGERS if entrance.version == 4 else STRANGERS6)]
    senders: list[Ip] = [*(SENDERS if entrance.version == 4 else SENDERS6)]
    network = draw(st.sampled_from(entrance.senders)) if entrance.senders else None
    inside = [ip for ip in senders if network and ip in network]
    source = draw(st.sampled_from([*inside, *senders, strangers[1]]))
    return Packet(source, entrance.local, entrance.protocol, content, draw(_fragments))


@st.composite
def _anything(draw: st.DrawFn) -> Packet:
    destination: Ip = draw(st.sampled_from([*LOCALS, *LOCALS, *LOCALS6, LOCALS[0] + 9, VIPS[2]]))
    sources: list[Ip] = (
        [*SENDERS, *SENDERS, *STRANGERS, *LOCALS] if destination.version == 4 else [*SENDERS6, *STRANGERS6]
    )
    protocol = draw(st.sampled_from([IPIP, IPIP, GRE, GRE, GRE, SIX_IN_FOUR, TCP, UDP, UDP, ICMP]))
    content = {GRE: st.one_of(_gre_headers, _gre_headers, _odd_headers), UDP: _in_udp}
    transport = draw(content.get(protocol, st.binary(max_size=4)))
    return Packet(draw(st.sampled_from(sources)), destination, protocol, transport, draw(_fragments))


@st.composite
def decapsulated(draw: st.DrawFn) -> tuple[Request, Packet]:
    """A file, and a packet that has come out of a tunnel of ours: mostly a client's, to one of the VIPs."""
    request = draw(requests())
    version = draw(st.sampled_from([4, 6]))
    vips = [target.ip for target in request.vips if target.ip.version == version]
    anywhere: list[Ip] = [ip for ip in (*VIPS, *OWN, *CLIENTS) if ip.version == version]
    destination = draw(st.sampled_from(vips * 3 + anywhere))
    clients: list[Ip] = [ip for ip in CLIENTS if ip.version == version]
    others: list[Ip] = [ip for ip in (*OWN, *VIPS, *NO_CLIENTS, *SENDERS) if ip.version == version]
    source = draw(st.one_of(st.sampled_from(clients), st.sampled_from(clients), st.sampled_from(others)))
    protocol = draw(st.sampled_from([TCP, TCP, UDP, UDP, ICMP, ICMPV6, SCTP, IPIP, SIX_IN_FOUR, GRE]))
    declared = [service for target in request.vips if target.ip == destination for service in target.services]
    served = [int(service.split("/")[1]) for service in declared]
    transport = draw(st.one_of(st.sampled_from([*served, *PORTS]).map(ports), st.binary(max_size=5)))
    return request, Packet(
        source, destination, protocol, transport, draw(_fragments), draw(st.sampled_from(LINKS)), LINK_GROUP
    )
