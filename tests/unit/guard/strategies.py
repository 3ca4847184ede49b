"""Requests and packets that meet each other: drawn from a few addresses, so that most of them mean something."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address

from hypothesis import strategies as st

from dsr_agent.guard.inner import Target
from dsr_agent.guard.outer import Entrance
from dsr_agent.guard.ruleset import Request
from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.model import Ip, Network
from tests.unit.guard.packets import GRE, ICMP, ICMPV6, IPIP, SCTP, SIX_IN_FOUR, TCP, UDP, Packet, gre, ports

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
    found = []
    for number in range(draw(st.integers(0, 4))):
        protocol = draw(st.sampled_from([IPIP, GRE]))
        senders = draw(st.lists(st.sampled_from(NETWORKS), max_size=4, unique=True))
        key = draw(st.sampled_from(KEYS)) if protocol == GRE else None
        checksum = protocol == GRE and draw(st.booleans())
        found.append(Entrance(f"t{number}", draw(st.sampled_from(LOCALS)), protocol, tuple(senders), key, checksum))
    return tuple(found)


def requests() -> st.SearchStrategy[Request]:
    """What a file can ask for."""
    services = st.lists(st.sampled_from(SERVICES), max_size=2, unique=True).map(tuple)
    links = st.one_of(st.just(()), st.lists(st.sampled_from(LINKS), max_size=2, unique=True).map(tuple))
    targets = st.builds(Target, st.sampled_from(VIPS), services, links)
    return st.builds(
        Request,
        entrances=entrances(),
        vips=st.lists(targets, max_size=4, unique_by=lambda target: target.ip).map(tuple),
        own=st.frozensets(st.sampled_from(OWN), max_size=5),
        mss=st.dictionaries(st.sampled_from([4, 6]), st.sampled_from([1380, 1400]), max_size=2),
    )


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
def arriving(draw: st.DrawFn) -> tuple[Request, Packet]:
    """A file, and a packet from the segment or a link that is not ours: as the file declares it, or nearly so."""
    request = draw(requests())
    packet = draw(st.one_of(_wrapped(request), _anything()) if request.entrances else _anything())
    return request, replace(packet, iifgroup=draw(st.sampled_from([0, 0, 1, LINK_GROUP + 1])))


@st.composite
def _wrapped(draw: st.DrawFn, request: Request) -> Packet:
    entrance = draw(st.sampled_from(request.entrances))
    flags = draw(st.sampled_from([0, 0, 0, 0x1000, *(1 << bit for bit in range(16))]))
    ethertype = draw(st.sampled_from([0x0800, 0x86DD, 0x6558]))
    content = gre(entrance.key, checksum=entrance.checksum, flags=flags, ethertype=ethertype)
    network = draw(st.sampled_from(entrance.senders or [STRANGERS[0]]))
    source = draw(st.sampled_from([*(ip for ip in SENDERS if ip in IPv4Network(network)), *SENDERS, STRANGERS[1]]))
    return Packet(source, entrance.local, entrance.protocol, content, draw(_fragments))


@st.composite
def _anything(draw: st.DrawFn) -> Packet:
    destination: Ip = draw(st.sampled_from([*LOCALS, *LOCALS, LOCALS[0] + 9, VIPS[2]]))
    sources: list[Ip] = [*SENDERS, *SENDERS, *STRANGERS, *LOCALS] if destination.version == 4 else CLIENTS[2:]
    protocol = draw(st.sampled_from([IPIP, IPIP, GRE, GRE, GRE, SIX_IN_FOUR, TCP, UDP, ICMP]))
    content = st.one_of(_gre_headers, _gre_headers, _odd_headers) if protocol == GRE else st.binary(max_size=4)
    return Packet(draw(st.sampled_from(sources)), destination, protocol, draw(content), draw(_fragments))


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
