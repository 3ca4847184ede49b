"""
The lab's network: a client, a router, a balancer and two real servers, each a network namespace of this machine.

::

    client 10.1.0.2 ----- router ----- 10.2.0.5 balancer (IPVS; the router sends it whatever goes to a VIP)
                             |
                             +-------- 10.3.0.11 rs1, 10.3.0.12 rs2 (one segment)

The balancer wraps what it gets for a VIP and sends it to a real server through the router. The real server answers
the client through the router too; its answers never pass the balancer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from tests.lab import spaces
from tests.lab.spaces import ip, ip_batch, run, set_sysctls

CLIENT, ROUTER, BALANCER, RS1, RS2 = "client", "router", "balancer", "rs1", "rs2"
SPACES = (CLIENT, ROUTER, BALANCER, RS1, RS2)
SERVERS = (RS1, RS2)

CLIENT_IP, CLIENT_IP6 = "10.1.0.2", "fd00:1::2"
BALANCER_IP, BALANCER_IP6 = "10.2.0.5", "fd00:2::5"
SERVER_IP: Mapping[str, str] = {RS1: "10.3.0.11", RS2: "10.3.0.12"}
SERVER_IP6: Mapping[str, str] = {RS1: "fd00:3::11", RS2: "fd00:3::12"}

VIPS, VIPS6 = "192.0.2.0/24", "2001:db8:f::/64"

# Where the balancer sends what comes to a port: to one real server, or to both in turn.
PORTS: Mapping[int, tuple[str, ...]] = {7000: (RS1, RS2), 7001: (RS1,), 7002: (RS2,)}

# What ipvsadm is told about a real server, for each way of wrapping.
WRAP: Mapping[str, str] = {
    "ipip": "-i",
    "gre": "-i --tun-type gre --tun-nocsum",
    "gre-csum": "-i --tun-type gre --tun-csum",
    "gue": "-i --tun-type gue --tun-port 6080 --tun-nocsum",
    "gue-csum": "-i --tun-type gue --tun-port 6080 --tun-csum",
    "gue-remcsum": "-i --tun-type gue --tun-port 6080 --tun-remcsum",
}


@dataclass(frozen=True)
class Virtual:
    """A VIP, how the balancer wraps what it sends on, and the version of the header that it puts around it."""

    address: str
    wrap: str
    outer: int = 4

    @property
    def six(self) -> bool:
        return ":" in self.address


@contextmanager
def world(virtuals: Sequence[Virtual] = (), *, server_rp_filter: int = 0, home: str = "") -> Iterator[None]:
    """
    The five namespaces, joined, with the balancer serving *virtuals*; gone at the end.

    The one called *home* is the machine's own first namespace, where its systemd and udev live.
    """
    try:
        build(virtuals, server_rp_filter=server_rp_filter, home=home)
        yield
    finally:
        spaces.delete(SPACES)


def build(virtuals: Sequence[Virtual] = (), *, server_rp_filter: int = 0, home: str = "") -> None:
    """The same, to stay."""
    spaces.delete(SPACES)
    spaces.create((name for name in SPACES if name != home), home)
    for name in SERVERS:  # before the links are made, so that they inherit it
        set_sysctls(name, {f"ipv4/conf/{conf}/rp_filter": server_rp_filter for conf in ("all", "default")})
    for name in SPACES:  # nobody has anybody else's address here
        set_sysctls(name, {"ipv6/conf/default/accept_dad": 0})
    _join()
    serve(virtuals)


def _join() -> None:
    """Links, addresses and routes."""
    ip_batch(
        "",
        [
            "link add to-client netns router type veth peer name eth0 netns client",
            "link add to-balancer netns router type veth peer name eth0 netns balancer",
            "link add to-rs1 netns router type veth peer name eth0 netns rs1",
            "link add to-rs2 netns router type veth peer name eth0 netns rs2",
        ],
    )
    set_sysctls(
        ROUTER,
        {
            "ipv4/ip_forward": 1,
            "ipv6/conf/all/forwarding": 1,
            "ipv4/conf/all/rp_filter": 0,  # answers come from where requests to the same address do not go
        },
    )
    ip_batch(
        ROUTER,
        [
            "link add servers type bridge",
            "link set to-rs1 master servers",
            "link set to-rs2 master servers",
            *(f"link set {name} up" for name in ("to-client", "to-balancer", "to-rs1", "to-rs2", "servers")),
            "address add 10.1.0.1/24 dev to-client",
            "address add fd00:1::1/64 dev to-client nodad",
            "address add 10.2.0.1/24 dev to-balancer",
            "address add fd00:2::1/64 dev to-balancer nodad",
            "address add 10.3.0.1/24 dev servers",
            "address add fd00:3::1/64 dev servers nodad",
            f"route add {VIPS} via {BALANCER_IP}",
            f"route add {VIPS6} via fd00:2::5",
        ],
    )
    ends = {CLIENT: ("1", "2"), BALANCER: ("2", "5"), RS1: ("3", "11"), RS2: ("3", "12")}
    for name, (net, host) in ends.items():
        ip_batch(
            name,
            [
                f"address add 10.{net}.0.{host}/24 dev eth0",
                f"address add fd00:{net}::{host}/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via 10.{net}.0.1",
                f"route add default via fd00:{net}::1",
            ],
        )


def accept(virtuals: Sequence[Virtual]) -> None:
    """Have the balancer take what comes for *virtuals* as its own."""
    ip_batch(BALANCER, [f"address add {virtual.address} dev lo" + " nodad" * virtual.six for virtual in virtuals])


def serve(virtuals: Sequence[Virtual], ports: Mapping[int, Sequence[str]] = PORTS, *, one_packet: bool = False) -> None:
    """
    Have the balancer accept *virtuals*, and wrap and send on what comes to *ports*, TCP and UDP.

    With *one_packet* each datagram of a client may go to another server; else those from one port stay together.
    """
    accept(virtuals)
    rules = []
    for virtual in virtuals:
        for service, servers in _services(virtual, ports):
            rules.append(f"-A {service} -s rr" + " --ops" * (one_packet and service.startswith("-u")))
            port = service.rpartition(":")[2]
            to = [SERVER_IP[server] if virtual.outer == 4 else f"[{SERVER_IP6[server]}]:{port}" for server in servers]
            rules += [f"-a {service} -r {address} {WRAP[virtual.wrap]}" for address in to]
    _ipvs(rules)


def redirect(virtuals: Sequence[Virtual], server: str, address: str) -> None:
    """Tell the balancer that *server* has another *address* now; what it has under way goes there, too."""
    set_sysctls(BALANCER, {"ipv4/vs/expire_nodest_conn": 1})
    rules = []
    for virtual in virtuals:
        for service, servers in _services(virtual):
            if server in servers:
                rules += [f"-d {service} -r {SERVER_IP[server]}", f"-a {service} -r {address} {WRAP[virtual.wrap]}"]
    _ipvs(rules)


def rewrap(virtuals: Sequence[Virtual], server: str) -> None:
    """Tell the balancer to wrap what it sends to *server* as *virtuals* say now; clients stay with their server."""
    rules = []
    for virtual in virtuals:
        for service, servers in _services(virtual):
            if server in servers:
                port = service.rpartition(":")[2]
                to = SERVER_IP[server] if virtual.outer == 4 else f"[{SERVER_IP6[server]}]:{port}"
                rules.append(f"-e {service} -r {to} {WRAP[virtual.wrap]}")
    _ipvs(rules)


def _services(virtual: Virtual, ports: Mapping[int, Sequence[str]] = PORTS) -> Iterator[tuple[str, Sequence[str]]]:
    """Each service of a VIP as ipvsadm writes it, and the real servers it has."""
    for protocol in ("t", "u"):
        for port, servers in ports.items():
            yield f"-{protocol} {f'[{virtual.address}]' if virtual.six else virtual.address}:{port}", servers


def _ipvs(rules: Iterable[str]) -> None:
    text = "\n".join(rules)
    if text:
        with spaces.inside(BALANCER):
            run("ipvsadm", "-R", given=text + "\n")


def send_keyed(address: str, server: str, key: int | None, *, checksum: bool = False, name: str = "") -> None:
    """
    Have the balancer send what comes for *address* to one real server in GRE with a key, which IPVS cannot do.

    An ordinary GRE tunnel to the real server, and a route to the VIP through it.
    """
    name = name or f"k{key}-{server}"
    form = "ocsum" * checksum + (f" okey {key}" if key is not None else "")
    form += f" ikey {int(ip_address(address))}"  # nothing comes back, but the kernel tells its tunnels apart by this
    ip(BALANCER, f"link add {name} type gre local {BALANCER_IP} remote {SERVER_IP[server]} {form}")
    ip(BALANCER, f"link set {name} up")
    ip(BALANCER, f"route add {address} dev {name}")
    set_sysctls(BALANCER, {"ipv4/ip_forward": 1})


@dataclass(frozen=True)
class Sender:
    """
    A link by which the balancer wraps in a way that IPVS does not know: its *kind*, the version of the header around,
    and what ``ip link`` is told about it.
    """

    kind: str
    outer: int = 4
    form: str = ""

    def make(self, server: str, name: str) -> None:
        """Have a link called *name* to one real server."""
        here, there = (BALANCER_IP, SERVER_IP) if self.outer == 4 else (BALANCER_IP6, SERVER_IP6)
        ip(BALANCER, f"link add {name} type {self.kind} local {here} remote {there[server]} {self.form}".rstrip())
        ip(BALANCER, f"link set {name} up")
        set_sysctls(BALANCER, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})


def route(address: str, name: str) -> None:
    """Have the balancer send what comes for *address* by its link called *name*."""
    ip(BALANCER, f"{'-6 ' if ':' in address else ''}route add {address} dev {name}")
