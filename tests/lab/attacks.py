"""
Forged and malformed packets: what each one is, who has to refuse it, and what it does to a host without a guard. Pure.

`ATTACKS` is the table. Where several reasons fit, the first one counts in the order of `attack_parts.REASONS`. What is
*allowed* is in it to show that the observers see what gets through.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.lab.attack_parts import (
    ALLOWED,
    ANSWERED,
    ATTACKER,
    BALANCER,
    BEHIND,
    BEHIND6,
    BESIDE,
    BY_KERNEL,
    CLIENT,
    CLIENT6,
    DELIVERED,
    FALLBACKS,
    FORWARD,
    FORWARDED,
    FORWARDING,
    HEADER,
    HOST,
    HOST6,
    INNER_DESTINATION,
    INNER_SOURCE,
    KEY,
    KEY_SUMMED,
    KEYED,
    LABEL,
    LEG,
    LEG6,
    MPLS,
    NEIGHBOUR,
    NESTED,
    ONLY_GRE,
    ONLY_IPIP,
    PEER,
    PORT,
    PROTOCOL,
    RECORD_ROUTE,
    ROUTED,
    SERVICE,
    SOURCE,
    SOURCE_ROUTE,
    STRANGER,
    STRANGER6,
    SUMMED,
    VIP,
    VIP6,
    VIP_ELSEWHERE,
    VIP_GRE,
    Attack,
    behind,
    behind_bytes,
    changed,
    cut,
    deep,
    frame,
    in_gre,
    inner,
    ipip,
    last,
    one,
    optioned,
    other,
    outer,
    pieces,
    pieces6,
    raw_gre,
    sit,
    six,
    wrapped,
)
from tests.lab.forge import (
    DESTINATION,
    ETH_IP6,
    FRAGMENT,
    GRE,
    HOP_BY_HOP,
    IPIP,
    RECURSION,
    ROUTING,
    SIT,
    SOURCE_PORT,
    STRICT_ROUTE,
    fragment6,
    gre,
    long_options6,
    options6,
)
from tests.lab.forge import (
    KEY as KEY_BIT,
)

TO_VIP6, NATIVE = inner(VIP6, CLIENT6), inner(ROUTED, ATTACKER)


def _outer() -> Iterator[Attack]:
    """The outer source, and the protocol it sends in."""
    yield Attack("allowed: ipip", ALLOWED, DELIVERED, ipip(inner()))
    yield Attack("allowed: gre", ALLOWED, DELIVERED, in_gre(inner(VIP_GRE)))
    yield Attack("allowed: gre, ipv6", ALLOWED, DELIVERED, in_gre(TO_VIP6))
    yield Attack("allowed: gre with its key", ALLOWED, DELIVERED, in_gre(inner(), destination=KEYED, key=KEY))
    yield Attack(
        "allowed: gre with its key and a checksum",
        *(ALLOWED, DELIVERED, in_gre(inner(), destination=SUMMED, key=KEY_SUMMED, checksum=True)),
    )
    yield Attack("allowed: health check, inner source is the balancer", ALLOWED, DELIVERED, ipip(inner(VIP, BALANCER)))
    yield Attack("allowed: inner ttl 0", ALLOWED, DELIVERED, ipip(inner(ttl=0)))
    yield Attack("allowed: outer record route", ALLOWED, DELIVERED, ipip(inner(), options=RECORD_ROUTE))
    yield Attack("allowed: outer in fragments", ALLOWED, DELIVERED, pieces(ipip(inner()), 24, 1))
    yield Attack("allowed: inner in fragments", ALLOWED, DELIVERED, ipip(pieces(inner(), 8, 2)))

    yield Attack("ipip from a stranger", SOURCE, DELIVERED, ipip(inner(), ATTACKER))
    yield Attack("ipip from the balancer's neighbour", SOURCE, DELIVERED, ipip(inner(), NEIGHBOUR))
    yield Attack("ipip from the client", SOURCE, DELIVERED, ipip(inner(), CLIENT))
    yield Attack("ipip from the host's own address", SOURCE, "", ipip(inner(), HOST))
    yield Attack("ipip from a vip", SOURCE, "", ipip(inner(), VIP))
    yield Attack("gre from a stranger", SOURCE, DELIVERED, in_gre(inner(), ATTACKER))
    yield Attack("gre with ipv6 from a stranger", SOURCE, DELIVERED, in_gre(TO_VIP6, ATTACKER))
    yield Attack("gre with the right key from a stranger", SOURCE, DELIVERED, in_gre(inner(), ATTACKER, KEYED, key=KEY))
    yield Attack("6in4 from a stranger", SOURCE, DELIVERED, sit(TO_VIP6, ATTACKER))
    yield Attack(
        "ipip with outer options from a stranger", SOURCE, DELIVERED, ipip(inner(), ATTACKER, options=RECORD_ROUTE)
    )
    yield Attack(
        "outer fragments from a stranger", SOURCE, DELIVERED, pieces(ipip(inner(), ATTACKER), 24, 3), counted=2
    )
    yield Attack(
        "gre in fragments from a stranger", SOURCE, DELIVERED, pieces(in_gre(inner(), ATTACKER), 8, 4), counted=2
    )

    yield Attack("ipip from a balancer that is declared for gre", PROTOCOL, DELIVERED, ipip(inner(), ONLY_GRE))
    yield Attack("gre from a balancer that is declared for ipip", PROTOCOL, DELIVERED, in_gre(inner(), ONLY_IPIP))
    yield Attack("ipip to the address of a gre tunnel", PROTOCOL, ANSWERED, ipip(inner(), destination=KEYED))
    yield Attack("allowed: 6in4 from a balancer", ALLOWED, DELIVERED, sit(TO_VIP6))
    mpls = outer(MPLS, behind_bytes(LABEL, one(inner())))
    yield Attack("mpls in ip from a balancer", BY_KERNEL, "", mpls)


def _gre_headers() -> Iterator[Attack]:
    """A declared balancer whose GRE header is not the tunnel's."""
    yield Attack("gre key where none is declared", HEADER, ANSWERED, in_gre(inner(), key=9))
    yield Attack("gre key missing", HEADER, ANSWERED, in_gre(inner(), destination=KEYED))
    yield Attack("gre key wrong", HEADER, ANSWERED, in_gre(inner(), destination=KEYED, key=9))
    yield Attack("gre key of another tunnel's address", HEADER, ANSWERED, in_gre(inner(), key=KEY))
    yield Attack("gre checksum where none is declared", HEADER, "", in_gre(inner(), checksum=True))
    yield Attack("gre checksum missing", HEADER, "", in_gre(inner(), destination=SUMMED, key=KEY_SUMMED))
    wrong = in_gre(inner(), destination=SUMMED, key=KEY_SUMMED, checksum=0x1234)
    yield Attack("gre checksum wrong", BY_KERNEL, "", wrong)
    yield Attack("allowed: gre with a sequence number", ALLOWED, DELIVERED, in_gre(inner(), sequence=1))
    yield Attack("gre routing bit", HEADER, "", in_gre(inner(), flags=ROUTING))
    yield Attack("gre strict source route bit", HEADER, DELIVERED, in_gre(inner(), flags=STRICT_ROUTE))
    yield Attack("gre recursion control", HEADER, DELIVERED, in_gre(inner(), flags=RECURSION))
    yield Attack("gre reserved bits", HEADER, "", in_gre(inner(), flags=0x0078))
    for version in (1, 2, 7):
        yield Attack(f"gre version {version}", HEADER, "", in_gre(inner(), flags=version))
    pptp = raw_gre(one(inner()), kind=0x880B, flags=KEY_BIT | 1)
    yield Attack("gre version 1 with ppp, as in pptp", HEADER, "", pptp)
    yield Attack("gre payload ethernet", HEADER, "", raw_gre(frame(inner()), kind=0x6558))
    yield Attack(
        "gre payload erspan", HEADER, ANSWERED, raw_gre(behind_bytes(bytes(8), frame(inner())), kind=0x88BE, sequence=1)
    )
    yield Attack(
        "gre payload erspan 2",
        HEADER,
        ANSWERED,
        raw_gre(behind_bytes(bytes(12), frame(inner())), kind=0x22EB, sequence=1),
    )
    yield Attack("gre payload wccp 1", HEADER, DELIVERED, raw_gre(one(inner()), kind=0x883E))
    yield Attack("gre payload wccp 2", HEADER, DELIVERED, raw_gre(behind_bytes(bytes(4), one(inner())), kind=0x883E))
    yield Attack("gre payload mpls", HEADER, "", raw_gre(behind_bytes(LABEL, one(inner())), kind=0x8847))
    yield Attack("gre payload 0, as in a keepalive", HEADER, "", raw_gre(one(inner()), kind=0))
    yield Attack("gre payload arp", HEADER, "", raw_gre(behind_bytes(bytes(28), lambda token: token), kind=0x0806))
    yield Attack("gre header cut off", HEADER, "", outer(GRE, lambda _: b"\0\0"))
    yield Attack("gre key cut off", HEADER, "", outer(GRE, lambda _: gre(b"", flags=KEY_BIT), KEYED))
    outer_options = outer(GRE, lambda token: gre(one(inner())(token), key=9), options=RECORD_ROUTE)
    yield Attack("gre key where none is declared, behind outer options", HEADER, ANSWERED, outer_options)
    hidden = pieces(in_gre(inner(), destination=SUMMED, key=9, checksum=True), 8, 5)
    yield Attack("gre key wrong, in the second fragment", HEADER, ANSWERED, hidden, counted=0)


def _inner_destinations() -> Iterator[Attack]:
    """To something that is no VIP, through a tunnel and from a balancer."""
    reason = INNER_DESTINATION
    yield Attack("to the host", reason, DELIVERED, ipip(inner(HOST)))
    yield Attack("to the host in gre", reason, DELIVERED, in_gre(inner(HOST)))
    yield Attack("to the host's other leg", reason, DELIVERED, ipip(inner(LEG)))
    yield Attack("to the tunnel's own address", reason, DELIVERED, ipip(inner("192.0.0.8")))
    yield Attack("to 127.0.0.1", reason, "", ipip(inner("127.0.0.1")))
    yield Attack("to 127.0.0.53", reason, "", ipip(inner("127.0.0.53")))
    yield Attack("to another host", reason, "", ipip(inner(BEHIND)))
    yield Attack("to an address among the vips", reason, "", ipip(inner(STRANGER)))
    yield Attack("to a vip of another tunnel", reason, DELIVERED, ipip(inner(VIP_ELSEWHERE)))
    yield Attack("to everybody", reason, DELIVERED, ipip(inner("255.255.255.255")))
    yield Attack("to everybody in the network", reason, DELIVERED, ipip(inner("10.3.0.255")))
    yield Attack("to all hosts", reason, DELIVERED, ipip(inner("224.0.0.1")))
    yield Attack("to a group", reason, "", ipip(inner("239.1.1.1")))
    yield Attack("to 0.0.0.0", reason, "", ipip(inner("0.0.0.0")))
    yield Attack("to the host, ttl 0", reason, DELIVERED, ipip(inner(HOST, ttl=0)))
    yield Attack("to the host, ttl 1", reason, DELIVERED, ipip(inner(HOST, ttl=1)))
    yield Attack("to the host, in fragments", reason, DELIVERED, ipip(pieces(inner(HOST), 8, 6)), counted=2)
    yield Attack("to the host, a later fragment alone", reason, "", ipip(last(pieces(inner(HOST), 8, 7))))
    yield Attack("to the host with inner options", reason, DELIVERED, ipip(optioned(HOST, RECORD_ROUTE)))
    yield Attack("to a vip, source routed to another host", BY_KERNEL, "", ipip(optioned(VIP, SOURCE_ROUTE)))
    yield Attack("ipv6 to the host", reason, DELIVERED, in_gre(inner(HOST6, CLIENT6)))
    yield Attack("ipv6 to the host's other leg", reason, DELIVERED, in_gre(inner(LEG6, CLIENT6)))
    yield Attack("ipv6 to an address among the vips", reason, "", in_gre(inner(STRANGER6, CLIENT6)))
    yield Attack("ipv6 to a link-local address", reason, ANSWERED, in_gre(inner("fe80::1", CLIENT6)))
    yield Attack("ipv6 to all nodes", reason, DELIVERED, in_gre(inner("ff02::1", CLIENT6)))
    yield Attack(
        "ipv6 to all nodes of the interface",
        BY_KERNEL,
        "",
        in_gre(inner("ff01::1", CLIENT6)),
        evidence="Ip6InHdrErrors",
    )
    yield Attack("ipv6 to ::1", BY_KERNEL, "", in_gre(inner("::1", CLIENT6)), evidence="Ip6InHdrErrors")
    yield Attack("ipv6 to the host behind a hop-by-hop header", reason, DELIVERED, in_gre(behind(HOP_BY_HOP, HOST6)))
    yield Attack("ipv6 to the host behind a fragment header", reason, DELIVERED, in_gre(behind(FRAGMENT, HOST6)))


def _inner_sources() -> Iterator[Attack]:
    """To a VIP, from somebody who cannot be a client."""
    for name, source in {
        "the host": HOST,
        "the host's other leg": LEG,
        "the tunnel's own address": "192.0.0.8",
        "127.0.0.1": "127.0.0.1",
        "the vip itself": VIP,
        "another vip": VIP_GRE,
        "a group": "224.0.0.1",
        "0.0.0.0": "0.0.0.0",
        "everybody": "255.255.255.255",
        "everybody in the network": "10.3.0.255",
    }.items():
        yield Attack(f"from {name}", INNER_SOURCE, "", ipip(inner(VIP, source)))
    for name, source in {"the host": HOST6, "the host's other leg": LEG6, "the vip itself": VIP6}.items():
        yield Attack(f"ipv6 from {name}", INNER_SOURCE, DELIVERED, in_gre(inner(VIP6, source)))
    yield Attack("ipv6 from nobody (::)", INNER_SOURCE, DELIVERED, in_gre(inner(VIP6, "::")))
    # A service on [::] takes this one for the IPv4 client.
    yield Attack("ipv6 from ::ffff:10.1.0.2", INNER_SOURCE, DELIVERED, in_gre(inner(VIP6, "::ffff:10.1.0.2")))
    yield Attack("ipv6 from a link-local address", INNER_SOURCE, DELIVERED, in_gre(inner(VIP6, "fe80::1")))
    for source in ("::1", "ff02::1"):
        yield Attack(f"ipv6 from {source}", BY_KERNEL, "", in_gre(inner(VIP6, source)), evidence="Ip6InHdrErrors")


def _nested() -> Iterator[Attack]:
    """Tunnel packets in tunnel packets."""
    again = (CLIENT, VIP)
    yield Attack("ipip in ipip to a vip", NESTED, ANSWERED, deep((BALANCER, HOST), again, packet=inner(HOST)))
    yield Attack("ipip in gre to a vip", NESTED, ANSWERED, in_gre(ipip(inner(HOST), *again)))
    yield Attack("gre in ipip to a vip", NESTED, ANSWERED, ipip(in_gre(inner(HOST), *again)))
    yield Attack("6in4 in ipip to a vip", NESTED, ANSWERED, ipip(sit(TO_VIP6, *again)))
    reason = INNER_DESTINATION
    yield Attack("ipip in ipip to the host", reason, DELIVERED, deep((BALANCER, HOST), (CLIENT, HOST), packet=inner()))
    yield Attack("ipip in gre to the host", reason, DELIVERED, in_gre(ipip(inner(), CLIENT, HOST)))
    yield Attack("gre in ipip to the host", reason, DELIVERED, ipip(in_gre(inner(), CLIENT, HOST)))
    yield Attack(
        "loop: the host to itself, thrice", reason, "", deep(*[(BALANCER, HOST)] + [(HOST, HOST)] * 3, packet=inner())
    )
    circle = deep((BALANCER, HOST), *[(BALANCER, HOST)] * 3, packet=inner())
    yield Attack("loop: the balancer to the host, four times", reason, DELIVERED, circle)
    for name, following, payload in (
        ("ipip", IPIP, one(inner(HOST))),
        ("6in4", SIT, one(inner(HOST6, CLIENT6))),
        ("gre", GRE, lambda token: gre(inner(HOST)(token)[0])),
    ):
        yield Attack(f"{name} in ipv6 to a vip", NESTED, ANSWERED, in_gre(six(following, payload)))
        for cover, number, header in (
            ("a hop-by-hop header", HOP_BY_HOP, options6),
            ("a fragment header", FRAGMENT, fragment6),
            ("destination options", DESTINATION, options6),
        ):
            covered = six(number, wrapped(header, following, payload))
            yield Attack(f"{name} in ipv6 to a vip behind {cover}", NESTED, ANSWERED, in_gre(covered))


def _broken() -> Iterator[Attack]:
    """Inner packets that are none."""
    yield Attack("inner header cut off", BY_KERNEL, "", ipip(cut(inner(), 12)))
    yield Attack(
        "inner packet shorter than it says", BY_KERNEL, "", ipip(cut(inner(), 24)), evidence="IpExtInTruncatedPkts"
    )
    yield Attack("inner packet empty", BY_KERNEL, "", ipip(cut(inner(), 0)))
    yield Attack("inner packet empty, in gre", BY_KERNEL, "", raw_gre(lambda _: b""))
    yield Attack("inner header length 60", BY_KERNEL, "", ipip(changed(inner(), 0, 0x4F)), evidence="IpInHdrErrors")
    yield Attack("inner header length 0", BY_KERNEL, "", ipip(changed(inner(), 0, 0x40)), evidence="IpInHdrErrors")
    yield Attack(
        "inner header checksum wrong", BY_KERNEL, "", ipip(changed(inner(), 10, 0x99)), evidence="IpExtInCsumErrors"
    )
    yield Attack("ipv6 in ipip", BY_KERNEL, "", ipip(TO_VIP6), evidence="IpInHdrErrors")
    yield Attack("ipv6 in gre that says ipv4", BY_KERNEL, "", raw_gre(one(TO_VIP6)), evidence="IpInHdrErrors")
    yield Attack(
        "ipv4 in gre that says ipv6", BY_KERNEL, "", raw_gre(one(inner()), kind=ETH_IP6), evidence="dsr-gre errors"
    )


def _prepared() -> Iterator[Attack]:
    """What needs somebody's carelessness first: `forwarding` is on, or the `fallbacks` tunl0, gre0, sit0, … are up."""
    to_behind, to_behind6 = inner(BEHIND), inner(BEHIND6, CLIENT6)
    reason, on = INNER_DESTINATION, FORWARDING
    yield Attack("through the host to another one", reason, "", ipip(to_behind), on)
    yield Attack("through the host to another one, ttl 1", reason, "", ipip(inner(BEHIND, ttl=1)), on)
    yield Attack("through the host to another one, in gre", reason, "", in_gre(to_behind), on)
    yield Attack("through the host to another one, ipv6", reason, FORWARDED, in_gre(to_behind6), on)
    yield Attack(
        "ping-pong: to the peer and back",
        reason,
        "",
        deep((BALANCER, HOST), (HOST, PEER), (PEER, HOST), packet=inner()),
        on,
    )
    chain = deep((BALANCER, HOST), (BALANCER, PEER), (BALANCER, HOST), packet=to_behind)
    yield Attack("tutl: a chain of hosts that ends behind the host", reason, "", chain, on)
    yield Attack("bounced back to where it came from", reason, "", ipip(inner(CLIENT, BALANCER)), on)
    yield Attack("by a route into a tunnel", FORWARD, FORWARDED, NATIVE, on)

    up = FALLBACKS
    yield Attack("tunl0 up: ipip from a stranger", SOURCE, DELIVERED, ipip(inner(HOST), ATTACKER), up)
    yield Attack(
        "tunl0 up: ipip from a stranger to a gre tunnel's address",
        SOURCE,
        DELIVERED,
        ipip(inner(HOST), ATTACKER, KEYED),
        up,
    )
    yield Attack(
        "tunl0 up: ipip from a balancer to a gre tunnel's address",
        PROTOCOL,
        DELIVERED,
        ipip(inner(HOST), destination=KEYED),
        up,
    )
    yield Attack("gre0 up: a key that nobody has", HEADER, DELIVERED, in_gre(inner(HOST), key=9), up)
    yield Attack("gre0 up: gre from a stranger", SOURCE, DELIVERED, in_gre(inner(HOST), ATTACKER, key=9), up)
    yield Attack("sit0 up: 6in4 from a stranger", SOURCE, DELIVERED, sit(inner(HOST6, CLIENT6), ATTACKER), up)
    yield Attack("sit0 up: 6in4 from a balancer", INNER_DESTINATION, DELIVERED, sit(inner(HOST6, CLIENT6)), up)
    yield Attack("tunl0 up: ipip in ipip to a vip", NESTED, DELIVERED, ipip(ipip(inner(HOST), CLIENT, VIP)), up)
    yield Attack("gre0 up: gre in ipip to a vip", NESTED, DELIVERED, ipip(in_gre(inner(HOST), CLIENT, VIP)), up)
    yield Attack(
        "ip6tnl0 up: ipv6 in ipv6 to a vip", NESTED, DELIVERED, in_gre(six(SIT, one(inner(HOST6, CLIENT6)))), up
    )
    covered = six(HOP_BY_HOP, wrapped(options6, SIT, one(inner(HOST6, CLIENT6))))
    yield Attack("ip6tnl0 up: ipv6 in ipv6 to a vip behind a header", NESTED, DELIVERED, in_gre(covered), up)
    halves = in_gre(pieces6(SIT, one(inner(HOST6, CLIENT6)), 48, 1))
    yield Attack("ip6tnl0 up: ipv6 in ipv6 to a vip in fragments", NESTED, DELIVERED, halves, up, counted=2)
    # Of the first fragment nobody can tell what it carries, so it is not let out. Kernels since 5.11 refuse to put such
    # ones together anyway.
    chain = pieces6(DESTINATION, wrapped(long_options6, SIT, one(inner(HOST6, CLIENT6))), 8, 2)
    yield Attack(
        "ip6tnl0 up: the same, its headers in two fragments", NESTED, "", in_gre(chain), up, "Ip6InHdrErrors", counted=2
    )
    in_gre6 = six(GRE, lambda token: gre(inner(HOST6, CLIENT6)(token)[0], ETH_IP6))
    yield Attack("ip6gre0 up: gre in ipv6 to a vip", NESTED, DELIVERED, in_gre(in_gre6), up)
    yield Attack("tunl0 up: ipip to the host's other leg", BESIDE, DELIVERED, ipip(inner(HOST), ATTACKER, LEG), up)
    yield Attack("gre0 up: gre to the host's other leg", BESIDE, DELIVERED, in_gre(inner(HOST), ATTACKER, LEG), up)
    yield Attack(
        "sit0 up: 6in4 to the host's other leg", BESIDE, DELIVERED, sit(inner(HOST6, CLIENT6), ATTACKER, LEG), up
    )


def _services() -> Iterator[Attack]:
    """To a VIP, but not to what is declared for it: a UDP port, and a TCP port two above it."""
    syn = struct.pack("!HHIIHHHH", SOURCE_PORT, PORT, 0, 0, 0x5002, 1024, 0, 0)
    yield Attack("allowed: a declared port", ALLOWED, DELIVERED, ipip(inner()))
    yield Attack("allowed: a declared port, in fragments", ALLOWED, DELIVERED, ipip(pieces(inner(), 8, 8)))
    yield Attack("allowed: an icmp error", ALLOWED, "", ipip(other(1, lead=b"\3\3" + bytes(6))))
    yield Attack("another port", SERVICE, ANSWERED, ipip(inner(port=PORT + 1)))
    yield Attack("a udp port that is declared for tcp", SERVICE, ANSWERED, ipip(inner(port=PORT + 2)))
    yield Attack("a tcp port that is declared for udp", SERVICE, "", ipip(other(6, lead=syn)))
    yield Attack("a port that is declared for another vip", SERVICE, DELIVERED, in_gre(inner(VIP_GRE)))
    yield Attack("a port that is declared for another vip, ipv6", SERVICE, DELIVERED, in_gre(TO_VIP6))
    yield Attack("sctp", SERVICE, ANSWERED, ipip(other(132)))
    yield Attack("esp", SERVICE, ANSWERED, ipip(other(50)))
    yield Attack("a protocol that nobody knows", SERVICE, ANSWERED, ipip(other(253)))


ATTACKS = (
    *_outer(),
    *_gre_headers(),
    *_inner_destinations(),
    *_inner_sources(),
    *_nested(),
    *_broken(),
    *_prepared(),
)
SERVICE_ATTACKS = tuple(_services())
