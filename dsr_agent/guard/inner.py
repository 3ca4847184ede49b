"""What may come out of a tunnel: the rules about the packet inside. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from dsr_agent.guard.expressions import (
    ACCEPT,
    ENCAPSULATIONS,
    OURS,
    Expression,
    bits,
    concat,
    goto,
    match,
    meta,
    packet,
    prefix,
    refuse,
    rule,
)
from dsr_agent.guard.reasons import Reason
from dsr_agent.guard.sets import ADDRESS, hashed, joined, of_addresses
from dsr_agent.state.model import Ip
from dsr_agent.state.table import Chain, FilterSet

Services = Mapping[Ip, tuple[str, ...]]
"""The VIPs, and to which services each is to be reached ("udp/1812"); none means all."""

_IP = {4: "ip", 6: "ip6"}
_ICMP = {4: 1, 6: 58}
_TRANSPORT = {"tcp": 6, "udp": 17}

# No client has these; they are in the set of this host's own addresses, where asking for them costs nothing.
_NOBODYS = [ip_address(text) for text in ("0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1")]


def sets(vips: Services, own: frozenset[Ip]) -> Iterator[tuple[str, FilterSet]]:
    """The sets that `accepting` and `chains` ask. *own* are this host's addresses."""
    for version, kind in ADDRESS.items():
        open_ = [ip for ip, services in vips.items() if not services]
        served = {ip: services for ip, services in vips.items() if services and ip.version == version}
        yield f"vips{version}", of_addresses(version, open_, counted=True)
        yield f"own{version}", of_addresses(version, {*own, *vips, *_NOBODYS})
        if served:
            asked = {_service(ip, service) for ip, services in served.items() for service in services}
            yield f"served{version}", of_addresses(version, served, counted=True)
            yield f"serving{version}", of_addresses(version, served)
            yield f"services{version}", hashed((kind, "inet_proto", "inet_service"), asked)


def accepting(vips: Services) -> Iterator[str]:
    """The rules that let out what is good: one for each version of IP, and some more where services count."""
    for version in ADDRESS:
        yield rule(OURS, *_sound(version), match(_destination(version), f"@vips{version}"), ACCEPT)
    for version in _serving(vips):
        to_vip = match(_destination(version), f"@served{version}")
        asked = concat(_destination(version), meta("l4proto"), packet("th", "dport"))
        yield rule(OURS, *_sound(version), match(asked, f"@services{version}"), to_vip, ACCEPT)
        # ICMP belongs to every service, and a later fragment has no port to be asked for.
        yield rule(OURS, *_sound(version), match(meta("l4proto"), _ICMP[version]), to_vip, ACCEPT)
        yield rule(OURS, *_sound(version), _later_fragment(version), to_vip, ACCEPT)


def chains(vips: Services) -> Iterator[tuple[str, Chain]]:
    """
    Why it was not let out, in the order of the reasons.

    Asking whether an address is *not* in a set does not count it there.
    """
    found = []
    for version in ADDRESS:
        no_vip = [match(_destination(version), f"@vips{version}", "!=")]
        if version in _serving(vips):
            no_vip.append(match(_destination(version), f"@serving{version}", "!="))
        found.append(rule(*no_vip, *refuse(Reason.INNER_DESTINATION)))
    for version in ADDRESS:
        source = packet(_IP[version], "saddr")
        found.append(rule(match(source, f"@own{version}"), *refuse(Reason.INNER_SOURCE)))
        found += [rule(foreign, *refuse(Reason.INNER_SOURCE)) for foreign in _no_clients(version)]
    found.append(rule(match(meta("l4proto"), {"set": ENCAPSULATIONS}), *refuse(Reason.NESTED)))
    found.append(rule(*refuse(Reason.SERVICE)))
    yield "inner_refused", Chain(tuple(found))


def refused() -> str:
    """The rule that sends the rest out of a tunnel there."""
    return rule(OURS, goto("inner_refused"))


def _service(ip: Ip, service: str) -> str:
    transport, port = service.split("/")
    return joined(str(ip), _TRANSPORT[transport], int(port))


def _sound(version: int) -> Iterator[Expression]:
    """What holds for every good packet: it is not wrapped once more, and a client can have sent it."""
    yield match(packet("ip", "protocol") if version == 4 else meta("l4proto"), {"set": ENCAPSULATIONS}, "!=")
    yield match(packet(_IP[version], "saddr"), f"@own{version}", "!=")
    if version == 4:
        yield match(packet("ip", "saddr"), "224.0.0.0", "<")
    else:
        yield from (match(packet("ip6", "saddr"), network, "!=") for network in _NO_CLIENTS6)


# Multicast, link-local, and IPv4 addresses in IPv6 clothes, which an application on a dual-stack socket takes for the
# IPv4 client. The rest of 127.0.0.0/8 and 0.0.0.0/8 the kernel drops by itself (martian source).
_NO_CLIENTS6 = (prefix("ff00::", 8), prefix("fe80::", 10), prefix("::ffff:0.0.0.0", 96))


def _no_clients(version: int) -> Iterator[Expression]:
    if version == 4:
        yield match(packet("ip", "saddr"), "224.0.0.0", ">=")
    else:
        yield from (match(packet("ip6", "saddr"), network) for network in _NO_CLIENTS6)


def _later_fragment(version: int) -> Expression:
    if version == 4:
        return match(bits(packet("ip", "frag-off"), 0x1FFF), 0, "!=")
    return match({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!=")


def _destination(version: int) -> Expression:
    return packet(_IP[version], "daddr")


def _serving(vips: Services) -> list[int]:
    return sorted({ip.version for ip, services in vips.items() if services})
