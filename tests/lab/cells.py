"""
What is sent in the lab's matrix of encapsulations, by whom, and to which tunnels.

IPVS sends what it can, links of the balancer's kernel what they can, and the rest is made byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.lab import vendors
from tests.lab.agent import tunnel
from tests.lab.segment import VIP, VIP6
from tests.lab.vendors import Form, Made, gre, gue, ipip, udp
from tests.lab.world import BALANCER_IP, BALANCER_IP6, RS1, SERVER_IP, SERVER_IP6, Sender

HERE, HERE6 = SERVER_IP[RS1], SERVER_IP6[RS1]


@dataclass(frozen=True)
class Undo:
    """
    What another program does to a tunnel, what the agent says when it is right again, and what the self-test finds
    meanwhile: its result, and a word of its reason. No result: it has nothing to try.
    """

    command: str
    repaired: str
    result: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Declared:
    """A ``[[tunnel]]`` of the file, its name, and what befalls it; *shares* its link with the tunnels called so."""

    name: str
    text: str
    undo: tuple[Undo, ...]
    shares: tuple[str, ...] = ()


@dataclass(frozen=True)
class Marked:
    """The balancer writes a code point instead of wrapping."""

    code: int


By = str | Sender | Made | Marked
"""How it is sent: as `world.WRAP` has it ("" as `segment` does), by a link, byte by byte, marked."""


@dataclass(frozen=True)
class Cell:
    """
    A sender, the version of IP inside and that of the header around (0: none), and the tunnel it is meant for.

    *form* is what stands around its packets, and *other* something like it that nobody has declared, if there is
    either. A sender that drops fragments has no *pieces* to send.
    """

    sender: str
    inner: int
    outer: int
    tunnel: str
    by: By
    form: Form | None = None
    other: Form | None = None
    pieces: bool = True

    def __str__(self) -> str:
        return f"{self.sender}, IPv{self.inner} in IPv{self.outer}"


@dataclass(frozen=True)
class File:
    """Tunnels that are there at once, and what is sent to them; what cannot stand beside each other is in two files."""

    tunnels: tuple[Declared, ...]
    cells: tuple[Cell, ...]
    addresses: tuple[str, ...] = field(default=())
    """Of the cells' VIPs, where the network has its own."""


# --- tunnels ----------------------------------------------------------------------------------------------------------


def _of(version: int) -> str:
    return "" if version == 4 else "6"


def _declared(kind: str, version: int, undo: Undo, *shares: str, **values: object) -> Declared:
    name = str(values.get("name", f"dsr-{kind}{_of(version)}"))
    values = {"load_balancers": [BALANCER_IP if version == 4 else BALANCER_IP6], **values}
    return Declared(name, tunnel(kind, **values), (undo,), shares)


def _link(kind: str, version: int, *sharing: str, **values: object) -> Declared:
    """A tunnel whose link is deleted, and with it that of those which share it."""
    undo = Undo(f"ip link del dsr-{kind}{_of(version)}", "made again", "no_tunnel", "the tunnel is missing")
    return _declared(kind, version, undo, *(f"dsr-{other}{_of(version)}" for other in sharing), **values)


def _port(kind: str, version: int, port: int) -> Declared:
    """A tunnel whose port is closed."""
    here = HERE if version == 4 else HERE6
    command = f"ip {'-6 ' if version == 6 else ''}fou del port {port} local {here}"
    undo = Undo(command, "opened again", "no_tunnel", f"packets are not taken out of UDP port {port} of {here}")
    return _declared(kind, version, undo, port=port)


def _form(version: int, less: str, **values: object) -> Declared:
    """A GRE tunnel whose link is told to do without something."""
    name = str(values.get("name", f"dsr-gre{_of(version)}"))
    command = f"ip link change {name} type {GRE[version]} {less}"
    undo = Undo(command, "changed in place", "no_tunnel", "the tunnel is other than declared")
    return _declared("gre", version, undo, **values)


# --- senders ----------------------------------------------------------------------------------------------------------

EVERY = [(outer, inner) for outer in (4, 6) for inner in (4, 6)]
GRE = {4: "gre", 6: "ip6gre"}


def _ipvs(wrap: str, kind: str, form: Form, options: str) -> list[Cell]:
    sender = f"IPVS `{options}`"
    return [Cell(sender, inner, outer, f"dsr-{kind}{_of(outer)}", wrap, form) for outer, inner in EVERY]


def _linked(sender: str, form: Form, name: str, outer: int, link: str, *other: Form) -> list[Cell]:
    """By a link of the balancer's kernel; no two have the same *link*."""
    kind, _, options = link.partition(" ")
    by = Sender(kind, outer, options)
    return [Cell(sender, inner, outer, name, by, form, next(iter(other), None)) for inner in (4, 6)]


def _made(
    sender: str, kind: str, made: Callable[[int], Made], versions: list[tuple[int, int]], *, pieces: bool = True
) -> list[Cell]:
    by = {outer: made(outer) for outer in (4, 6)}
    return [
        Cell(sender, inner, outer, f"dsr-{kind}{_of(outer)}", by[outer], by[outer].form, pieces=pieces)
        for outer, inner in versions
    ]


# --- files ------------------------------------------------------------------------------------------------------------

PLAIN = File(
    tuple(
        declared
        for version in (4, 6)
        for declared in (_link("ipip", version, "gue"), _link("gre", version), _port("gue", version, 6080))
    ),
    (
        *_ipvs("ipip", "ipip", ipip, "-i"),
        *_linked("Linux `ip6tnl`, encapsulation limit", ipip, "dsr-ipip6", 6, "ip6tnl encaplimit 4 mode any"),
        *_ipvs("gre", "gre", gre(), "-i --tun-type gre --tun-nocsum"),
        *_linked("Linux `gre`, sequence numbers", gre(sequence=1), "dsr-gre", 4, "gre oseq ikey 4711"),
        *_linked("Linux `gre`, sequence numbers", gre(sequence=1), "dsr-gre6", 6, "ip6gre oseq ikey 4711"),
        *_ipvs("gue", "gue", udp(6080, gue()), "-i --tun-type gue --tun-nocsum"),
        *_ipvs("gue-csum", "gue", udp(6080, gue(), checksum=True), "-i --tun-type gue --tun-csum"),
        *_ipvs("gue-remcsum", "gue", udp(6080, gue()), "-i --tun-type gue --tun-remcsum"),
    ),
)

CHECKSUMS = File(
    (_form(4, "nocsum", checksum=True), _form(6, "nocsum", checksum=True)),
    tuple(_ipvs("gre-csum", "gre", gre(checksum=True), "-i --tun-type gre --tun-csum")),
)


def _keyed(outer: int) -> list[Cell]:
    kind, name, more = GRE[outer], f"dsr-gre{_of(outer)}", {"checksum": True, "sequence": 1}
    link, link_with_more = f"{kind} okey 7 ikey 4711", f"{kind} okey 8 ocsum oseq ikey 4712"
    sender = "Linux `gre`, key, checksum, sequence numbers"
    return [
        *_linked("Linux `gre`, key", gre(key=7), name, outer, link, gre(key=9)),
        *_linked(sender, gre(key=8, **more), f"{name}-8", outer, link_with_more, gre(key=9, **more)),
    ]


KEYS = File(
    tuple(
        declared
        for version in (4, 6)
        for declared in (
            _form(version, "nokey", key=7),
            _form(version, "nocsum", key=8, checksum=True, name=f"dsr-gre{_of(version)}-8"),
        )
    ),
    (*_keyed(4), *_keyed(6)),
)

# Appliances send from any of their addresses, and katran makes one up for each flow.
_PREFIXES = {4: ["10.2.0.0/24", "172.16.0.0/16"], 6: ["fd00:2::/64", "100::/64"]}

VENDORS = File(
    tuple(
        declared
        for version in (4, 6)
        for declared in (
            _link("ipip", version, "gue", "fou", load_balancers=_PREFIXES[version]),
            _link("gre", version, load_balancers=_PREFIXES[version]),
            _port("gue", version, 19523),
            _port("fou", version, 6080),
        )
    ),
    (
        *_made(
            "as F5, A10, NetScaler, Avi, Alteon: IP in IP, any self IP; TOS, DF, TTL 255",
            "ipip",
            vendors.appliance_ipip,
            EVERY,
        ),
        *_made("as F5, Avi, Alteon: GRE, any self IP; TOS, DF, TTL 255", "gre", vendors.appliance_gre, EVERY),
        *_made("as katran: IP in IP", "ipip", vendors.katran_ipip, EVERY, pieces=False),
        *_made("as katran: GUE (to a `fou` tunnel)", "fou", vendors.katran_gue, EVERY, pieces=False),
        *_made("FOU, checksums", "fou", vendors.fou, EVERY),
        *_made("as glb-director: GUE, private data, DF", "gue", vendors.glb, [(4, 4), (4, 6)]),
        *_made("GUE, private data, checksums", "gue", vendors.private_gue, EVERY),
    ),
)

CODE = 7
_GONE = tuple(
    Undo(f"ip address del {vip} dev lo", "put back", "no_vip", "the VIP is not on this host")
    for vip in ("192.0.2.10/32", "2001:db8:f::11/128")
)

DSCP = File(
    (
        Declared("dsr-dscp", '[[tunnel]]\nencapsulation = "dscp"\n', _GONE),
        _link("ipip", 4, load_balancers=_PREFIXES[4]),
    ),
    (
        *(Cell("nftables that mark (L3DSR, TOS)", inner, 0, "dsr-dscp", Marked(CODE)) for inner in (4, 6)),
        *_made("IP in IP that has the code point, too", "ipip", vendors.coded_ipip(CODE), [(4, 4), (4, 6)]),
    ),
)

L2 = File(
    (
        Declared(
            "dsr-l2",
            '[[tunnel]]\nencapsulation = "l2"\n',
            (
                *(Undo(f"ip address del {vip} dev lo", "put back") for vip in (f"{VIP}/32", f"{VIP6}/128")),
                Undo("sysctl -qw net.ipv4.conf.all.arp_ignore=0", "set to 1"),
            ),
        ),
    ),
    tuple(Cell("IPVS `-g`", inner, 0, "dsr-l2", "") for inner in (4, 6)),
    (VIP, VIP6),
)

FILES = {"plain": PLAIN, "checksums": CHECKSUMS, "keys": KEYS, "vendors": VENDORS, "dscp": DSCP, "l2": L2}
