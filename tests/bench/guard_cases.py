"""What the benchmark of the guard compares: worlds, traffic and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from tests.bench.guard_rules import Wanted, rewriting, ruleset
from tests.bench.guard_wire import CODE, FOU_PORT, GUE_PORT, Ip, addresses

LOCAL = {4: ip_address("10.0.3.2"), 6: ip_address("fd00:3::2")}
CLIENT = {4: "192.0.2.1", 6: "2001:db8:c::1"}
VIP = {4: "198.18.0.1", 6: "2001:db8:f::1"}
BALANCER = {4: "10.2.0.1", 6: "fd00:2::1"}
STRANGER = {4: ip_address("10.9.9.9"), 6: ip_address("fd00:9::9")}
PROTOCOLS = {
    "plain": (4,),
    "dscp": (),
    "ipip": (4,),
    "sit": (4, 41),
    "ip6tnl": (4, 41),
    "gre": (47,),
    "gue": (17,),
    "fou": (17,),
}
PORTS = {"gue": GUE_PORT, "fou": FOU_PORT}
KEY = 4242

BARE, GUARDED, REFUSED = "no guard", "guard", "guard, wrong balancer"
KINDS = "kinds"
"""Asked for instead of a world's name: `kinds`."""


@dataclass(frozen=True)
class World:
    """What there is: a tunnel of *kind*, *vips* on ``lo``; *key* and *checksum* are GRE's. Families of the headers."""

    kind: str = "ipip"
    vips: int = 1
    key: int | None = None
    outer: int = 4
    inner: int = 4
    checksum: bool = False

    @property
    def vip_addresses(self) -> list[Ip]:
        """The VIPs of this world."""
        return addresses(VIP[self.inner], self.vips)

    @property
    def name(self) -> str:
        """For the table."""
        if self.kind == "plain":
            return f"no tunnel, IPv{self.inner}"
        if self.kind == "dscp":
            return f"dscp, IPv{self.inner}"
        more = " key" * (self.key is not None) + " checksum" * self.checksum
        return f"{self.kind}{more}, {self.inner} in {self.outer}, VIPs: {self.vips}"

    @property
    def always(self) -> str:
        """The rules without which nothing arrives, guard or not."""
        return rewriting(wanted(self, 1)) if self.kind == "dscp" else ""


@dataclass(frozen=True)
class Traffic:
    """What is sent: from how many balancers, and what is wrong with it, if anything."""

    balancers: int = 1
    wrong: str = ""  # "balancer", "vip", "client", "nested", "key"


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    world: World
    what: str
    rules: str = ""
    traffic: Traffic = Traffic()


def wanted(world: World, balancers: int) -> Wanted:
    """What the guard of this world is to admit."""
    sources = [str(each) for each in addresses(BALANCER[world.outer], balancers)]
    vips = [str(vip) for vip in world.vip_addresses]
    own = [str(LOCAL[4]), str(LOCAL[6])]
    direct, code = world.kind == "fou", CODE if world.kind == "dscp" else None
    at, port = str(LOCAL[world.outer]), PORTS.get(world.kind)
    found = Wanted(PROTOCOLS[world.kind], at, sources, vips, own, world.key, port=port, direct=direct)
    return replace(found, checksum=world.checksum, code=code)


def sizes(world: World) -> list[Case]:
    """The cost over the number of balancers."""
    return [
        Case(world, f"guard, balancers: {count}", ruleset(wanted(world, count)), Traffic(count))
        for count in (1, 16, 256)
    ]


def variants(world: World) -> list[Case]:
    """The cost of single parts."""
    full = wanted(world, 1)
    prefixes = [f"{ip_address(10 << 24 | n << 8)}/24" for n in range(512, 768)]
    return [
        Case(world, "guard without counters", ruleset(replace(full, counters=False))),
        Case(world, "guard, 256 prefixes", ruleset(replace(full, balancers=prefixes))),
        Case(world, "no guard, nested", "", Traffic(wrong="nested")),
    ]


def refusals(world: World) -> list[Case]:
    """The cost of what the guard drops."""
    rules = ruleset(wanted(world, 1))
    wrongs = ["balancer", "vip", "nested", *(["key"] if world.key is not None else [])]
    wrongs.append("client")
    return [Case(world, f"guard, wrong {wrong}", rules, Traffic(wrong=wrong)) for wrong in wrongs]


def _every_kind() -> list[World]:
    """What the agent makes for the other encapsulations."""
    pairs = [(outer, inner) for outer in (4, 6) for inner in (4, 6)]
    kinds = [(kind, outer, inner) for outer, inner in pairs for kind in ("sit" if outer == 4 else "ip6tnl", "gue")]
    return [World(kind, outer=outer, inner=inner) for kind, outer, inner in kinds] + [
        World("gre", outer=6, inner=inner) for inner in (4, 6)
    ]


def kinds() -> list[Case]:
    """One VIP and one balancer by everything that the agent makes: without a guard, with it, and a stranger."""
    worlds = [World("plain", inner=inner) for inner in (4, 6)]
    worlds += [World("dscp", outer=version, inner=version) for version in (4, 6)]
    worlds += [World("ipip"), *(World("sit", inner=inner) for inner in (4, 6))]
    worlds += [World("ip6tnl", outer=6, inner=inner) for inner in (4, 6)]
    worlds += [
        World("gre", key=key, checksum=checksum) for key, checksum in ((None, False), (KEY, False), (None, True))
    ]
    worlds += [World("gre", outer=outer, inner=inner) for outer, inner in ((4, 6), (6, 4), (6, 6))]
    worlds += [World(kind, outer=o, inner=i) for kind in ("gue", "fou") for o in (4, 6) for i in (4, 6)]
    found = []
    for world in worlds:
        rules = wanted(world, 1)
        if world.kind == "plain":  # as l2 is: a VIP that is sent to as it is
            rules = replace(rules, protocols=(), plain=True)
        found += [Case(world, BARE), Case(world, GUARDED, ruleset(rules))]
        if rules.protocols:
            found.append(Case(world, REFUSED, ruleset(rules), Traffic(wrong="balancer")))
    return found


def cases(given: Mapping[str, str]) -> list[Case]:
    """All of them; *given* are rules from files, measured where there is one VIP and one balancer."""
    ipip = World()
    found = [Case(ipip, "no guard"), *sizes(ipip), *refusals(ipip), *variants(ipip)]
    found += [Case(ipip, name, rules) for name, rules in given.items()]
    found += [Case(ipip, f"{name}, wrong balancer", rules, Traffic(wrong="balancer")) for name, rules in given.items()]
    for count in (100, 10000):
        world = World(vips=count)
        found += [Case(world, "no guard"), *sizes(world)]
    others = (World("gre"), World("gre", inner=6), World("gre", key=KEY), *_every_kind())
    for world in others:
        found += [Case(world, "no guard"), Case(world, "guard", ruleset(wanted(world, 1))), *refusals(world)]
    for world in (World("plain"), World("plain", inner=6)):
        found += [Case(world, "no guard"), Case(world, "guard (for an ipip tunnel)", ruleset(wanted(world, 1)))]
    return found
