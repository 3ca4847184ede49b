"""
The rules that the benchmark measures: the cheapest correct shape found, for a table of each family or one for both.

What is cheap, in instructions of a 6.12 kernel: entering a chain 216 (340 for what comes out of an ipip or gre device,
which arrives in lists); a rule 35, a ``meta`` compare 45 more, a payload compare 58; the family check that ``ip ...``
brings along in an ``inet`` table 46; a lookup in a set with a declared ``size`` 155, without one 275; a counter 48.
So a good packet is accepted by one rule, its last lookup the one whose elements count, and refusals sort themselves out
afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

GROUP = 54741
SIZE = 16384  # room in a set; a number given at the start is what makes the kernel take its fast hash
GRE = 47
ENCAPSULATIONS = "{ 4, 41, 47 }"
ETHERTYPES = (0x0800, 0x86DD)
REASONS = ("source", "protocol", "vip", "own", "nested", "forwarded")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Tunnel:
    """A tunnel to guard: outer packets from *balancers* (addresses or prefixes) for *local*."""

    name: str
    protocols: Sequence[int]
    local: str
    balancers: Sequence[str]
    key: int | None = None  # GRE's

    @property
    def version(self) -> int:
        """Of IP, outside."""
        return ip_address(self.local).version

    def by_length(self) -> dict[int, list[Network]]:
        """The balancers by the length of their prefix, longest first."""
        found: dict[int, list[Network]] = {}
        for network in sorted(map(ip_network, self.balancers), key=lambda each: -each.prefixlen):
            found.setdefault(network.prefixlen, []).append(network)
        return found


@dataclass(frozen=True)
class Wanted:
    """
    All there is to guard.

    *own* are addresses of the host, VIPs among them, that no inner packet may come from. In IPv4 the kernel sees to
    that by itself (a martian source, unless ``accept_local`` is set), in IPv6 it does not.
    """

    tunnels: Sequence[Tunnel]
    vips: Sequence[str]
    own: Sequence[str] = ()
    counters: bool = True
    together: bool = False  # one table inet, not two

    def of(self, version: int, listed: Sequence[str]) -> list[str]:
        """Those of one family."""
        return [each for each in listed if ip_address(each).version == version]


def ruleset(wanted: Wanted) -> str:
    """The whole of it, as nft reads it."""
    if wanted.together:
        return _table("inet", (4, 6), wanted)
    return "\n".join((_table("ip", (4,), wanted), _table("ip6", (6,), wanted)))


def _table(kind: str, versions: Sequence[int], wanted: Wanted) -> str:
    tunnels = [tunnel for tunnel in wanted.tunnels if tunnel.version in versions]
    parts = [f"\tcounter {reason} {{ }}" for reason in REASONS]
    for version in versions:
        parts.append(_set(f"vips{version}", version, wanted.of(version, wanted.vips), wanted.counters))
        parts.append(_set(f"own{version}", version, wanted.of(version, wanted.own), False))
    for tunnel in tunnels:
        for length, networks in tunnel.by_length().items():
            elements = [str(network.network_address) for network in networks]
            parts.append(_set(f"{tunnel.name}_{length}", tunnel.version, elements, wanted.counters))
    parts += [_chain("inner", _inner(versions, wanted)), _chain("refused", _refused(tunnels))]
    parts += [_chain(f"{tunnel.name}_gre", _gre(tunnel)) for tunnel in tunnels if GRE in tunnel.protocols]
    head = "type filter hook {} priority -310; policy accept;"
    parts.append(_chain("prerouting", [head.format("prerouting"), *_outer(tunnels)]))
    stop = [f"meta {way}group {GROUP} counter name forwarded drop" for way in ("iif", "oif")]
    parts.append(_chain("forward", [head.format("forward"), *stop]))
    return "\n".join([f"table {kind} dsr_agent {{", *parts, "}\n"])


def _chain(name: str, rules: Iterable[str]) -> str:
    return "\n\t\t".join([f"\tchain {name} {{", *rules]) + "\n\t}"


def _set(name: str, version: int, elements: Sequence[str], counters: bool) -> str:
    lines = [f"type ipv{version}_addr", f"size {SIZE}", *(["counter"] if counters else [])]
    lines += [f"elements = {{ {', '.join(elements)} }}"] if elements else []
    return "\n\t\t".join([f"\tset {name} {{", *lines]) + "\n\t}"


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _inner(versions: Sequence[int], wanted: Wanted) -> list[str]:
    """What came out of a tunnel: the good ones in one rule each, the VIP last, as its element counts."""
    good, claims = [], []
    for version in versions:
        header = _ip(version)
        own = f"{header} saddr != @own{version} " if wanted.of(version, wanted.own) else ""
        # Behind IPv6 extension headers only `meta l4proto` finds the protocol; in IPv4 the header is a little cheaper.
        protocol = "ip protocol" if version == 4 else "meta l4proto"
        good.append(f"{protocol} != {ENCAPSULATIONS} {own}{header} daddr @vips{version} accept")
        if own:
            claims.append(f"{header} saddr @own{version} counter name own drop")
    return [*good, f"meta l4proto {ENCAPSULATIONS} counter name nested drop", *claims, "counter name vip drop"]


def _outer(tunnels: Sequence[Tunnel]) -> list[str]:
    """
    The way in.

    Tunnels come first: what is wrapped twice may name a balancer as its source and must not meet the rules for outer
    packets. What goes to an address of no tunnel is accepted anyhow, so *accept* need look at the address only where
    two tunnels differ in who may send: 57 instructions.
    """
    rules = [f"meta iifgroup {GROUP} goto inner"]
    for tunnel in tunnels:
        for protocol in tunnel.protocols:
            to_us = f"{_ip(tunnel.version)} daddr {tunnel.local} "
            if protocol == GRE:
                rules.append(f"meta l4proto {protocol} {to_us}goto {tunnel.name}_gre")
                continue
            alone = not any(_rival(tunnel, protocol, other) for other in tunnels)
            start = f"meta l4proto {protocol} {'' if alone else to_us}"
            rules += [f"{start}{source} accept" for source in _sources(tunnel)]
    for version in sorted({tunnel.version for tunnel in tunnels}):
        ours = ", ".join(sorted({tunnel.local for tunnel in tunnels if tunnel.version == version}))
        rules.append(f"meta l4proto {ENCAPSULATIONS} {_ip(version)} daddr {{ {ours} }} goto refused")
    return rules


def _rival(tunnel: Tunnel, protocol: int, other: Tunnel) -> bool:
    return other.name != tunnel.name and other.version == tunnel.version and protocol in other.protocols


def _sources(tunnel: Tunnel, operator: str = "") -> list[str]:
    """
    The lookups of who sent it, for each length of prefix one through a mask.

    An interval set would cost more with every prefix in it.
    """
    found = []
    for length, networks in tunnel.by_length().items():
        mask = "" if length == networks[0].max_prefixlen else f" & {networks[0].netmask}"
        found.append(f"{_ip(tunnel.version)} saddr{mask} {operator}@{tunnel.name}_{length}")
    return found


def _gre(tunnel: Tunnel) -> list[str]:
    """
    GRE: the flags but for S, what is inside, and the key.

    Only a first fragment has that header, and the others are worth nothing without it. A lookup that must fail does not
    count, so the refusals leave the counters of the balancers alone.
    """
    flags = 0 if tunnel.key is None else 0x2000
    key = "" if tunnel.key is None else f"@th,32,32 {tunnel.key} "
    headers = [f"@th,0,32 & 0xefffffff == {flags << 16 | inside:#010x} {key}" for inside in ETHERTYPES]
    later = "ip frag-off & 0x1fff != 0" if tunnel.version == 4 else "frag frag-off != 0"
    rules = [f"{header}{source} accept" for header in headers for source in _sources(tunnel)]
    rules.append(" ".join([*_sources(tunnel, "!= "), "counter name source drop"]))
    rules += [f"{later} {source} accept" for source in _sources(tunnel)]
    return [*rules, "counter name protocol drop"]


def _refused(tunnels: Sequence[Tunnel]) -> list[str]:
    """To one of our addresses, but not good: the protocol is a tunnel's, so it was the source, or it is not."""
    rules = []
    for tunnel in tunnels:
        known = ", ".join(str(protocol) for protocol in tunnel.protocols if protocol != GRE)
        if known:
            to_us = f"{_ip(tunnel.version)} daddr {tunnel.local}"
            rules.append(f"meta l4proto {{ {known} }} {to_us} counter name source drop")
    return [*rules, "counter name protocol drop"]
