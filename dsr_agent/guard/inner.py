"""What may come out of a tunnel: the rules about the packet inside. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from dsr_agent.guard.expressions import (
    ACCEPT,
    ENCAPSULATIONS,
    OURS,
    Expression,
    concat,
    goto,
    match,
    meta,
    packet,
    prefix,
    refuse,
    rule,
)
from dsr_agent.guard.headers import later_fragment
from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.guard.sets import ADDRESS, hashed, joined, of_addresses
from dsr_agent.state.model import Ip
from dsr_agent.state.table import Chain, FilterSet


@dataclass(frozen=True, slots=True)
class GuardedVip:
    """
    A VIP as the guard knows it: the *services* to which it is to be reached ("udp/1812"; none means all), and the
    links out of which (none means any of ours).
    """

    ip: Ip
    services: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kind:
    """VIPs of which the same is asked, and the name of their sets. *serves*: of the service; *bound*: of the link."""

    name: str
    serves: bool
    bound: bool

    def has(self, target: GuardedVip) -> bool:
        return bool(target.services) == self.serves and bool(target.links) == self.bound

    def used(self, targets: Iterable[GuardedVip], version: int) -> bool:
        return any(target.ip.version == version and self.has(target) for target in targets)

    def key(self, version: int) -> Expression:
        return concat(meta("iifname"), _destination(version)) if self.bound else _destination(version)


_PLAIN = _Kind("vips", serves=False, bound=False)
_KINDS = (
    _PLAIN,
    _Kind("served", serves=True, bound=False),
    _Kind("bound", serves=False, bound=True),
    _Kind("bound_served", serves=True, bound=True),
)

_IP = {4: "ip", 6: "ip6"}
ICMP = {4: 1, 6: 58}
_TRANSPORT = {"tcp": 6, "udp": 17}

# No client has these; they are in the set of this host's own addresses, where asking for them costs nothing.
_NOBODYS = [ip_address(text) for text in ("0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1")]


COUNTING = frozenset(
    f"{name}{version}" for name in (*(kind.name for kind in _KINDS), "marked", "plain") for version in ADDRESS
)
"""The names of the sets that count what comes to VIPs."""


def address_of(element: str) -> str:
    """The VIP that an element of one of them is about."""
    return element[1:-1] if element.startswith('"') else str(json.loads(element)["concat"][-1])


def sets(targets: Iterable[GuardedVip], own: frozenset[Ip]) -> Iterator[tuple[str, FilterSet]]:
    """The sets that `accepting` and `chains` ask. *own* are this host's addresses."""
    everyone = tuple(targets)
    for version in ADDRESS:
        yield f"own{version}", of_addresses(version, {*own, *(target.ip for target in everyone), *_NOBODYS})
        for kind in _KINDS:
            found = [target for target in everyone if target.ip.version == version and kind.has(target)]
            if found or kind is _PLAIN:
                yield f"{kind.name}{version}", _elements(kind, version, found)
            if found and kind.serves:
                asked = {service(target.ip, name) for target in found for name in target.services}
                yield f"{kind.name}_services{version}", hashed((ADDRESS[version], "inet_proto", "inet_service"), asked)


def accepting(targets: Iterable[GuardedVip]) -> Iterator[str]:
    """The rules that let out what is good: one for each version of IP, and more where services or tunnels count."""
    everyone = tuple(targets)
    for kind in _KINDS:
        for version in ADDRESS:
            if kind is not _PLAIN and not kind.used(everyone, version):
                continue
            to_vip = match(kind.key(version), f"@{kind.name}{version}")
            if not kind.serves:
                yield rule(OURS, *_sound(version), to_vip, ACCEPT)
                continue
            asked = concat(_destination(version), meta("l4proto"), packet("th", "dport"))
            services = match(asked, f"@{kind.name}_services{version}")
            yield rule(OURS, *_sound(version), services, to_vip, ACCEPT)
            # ICMP belongs to every service, and a later fragment has no port to be asked for.
            yield rule(OURS, *_sound(version), match(meta("l4proto"), ICMP[version]), to_vip, ACCEPT)
            yield rule(OURS, *_sound(version), later_fragment(version), to_vip, ACCEPT)


def chains(targets: Iterable[GuardedVip]) -> Iterator[tuple[str, Chain]]:
    """
    Why it was not let out, in the order of the reasons.

    Asking whether an address is *not* in a set does not count it there.
    """
    everyone = tuple(targets)
    found = []
    for version in ADDRESS:
        kinds = [kind for kind in _KINDS if kind is _PLAIN or kind.used(everyone, version)]
        no_vip = [match(kind.key(version), f"@{kind.name}{version}", "!=") for kind in kinds]
        found.append(rule(*no_vip, *refuse(RefusalReason.INNER_DESTINATION)))
    for version in ADDRESS:
        source = packet(_IP[version], "saddr")
        found.append(rule(match(source, f"@own{version}"), *refuse(RefusalReason.INNER_SOURCE)))
        found += [rule(foreign, *refuse(RefusalReason.INNER_SOURCE)) for foreign in no_clients(version)]
    if any(target.services for target in everyone):
        found.append(rule(match(meta("l4proto"), {"set": ENCAPSULATIONS}), *refuse(RefusalReason.NESTED)))
        found.append(rule(*refuse(RefusalReason.SERVICE)))
    else:  # what is left is wrapped once more, or does not say whether it is
        found.append(rule(*refuse(RefusalReason.NESTED)))
    yield "inner_refused", Chain(tuple(found))


def refused() -> str:
    """The rule that sends the rest out of a tunnel there."""
    return rule(OURS, goto("inner_refused"))


def _elements(kind: _Kind, version: int, targets: Iterable[GuardedVip]) -> FilterSet:
    if not kind.bound:
        return of_addresses(version, (target.ip for target in targets), counted=True)
    pairs = {joined(link, str(target.ip)) for target in targets for link in target.links}
    return hashed(("ifname", ADDRESS[version]), pairs, counted=True)


def service(ip: Ip, name: str) -> str:
    """The element that stands for a service ("udp/1812") of *ip*."""
    transport, port = name.split("/")
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


def no_clients(version: int) -> Iterator[Expression]:
    """The ways of asking for a source that no client can have, beside this host's own addresses."""
    if version == 4:
        yield match(packet("ip", "saddr"), "224.0.0.0", ">=")
    else:
        yield from (match(packet("ip6", "saddr"), network) for network in _NO_CLIENTS6)


def _destination(version: int) -> Expression:
    return packet(_IP[version], "daddr")
