"""
Many tunnels on one real server at once, at several of its addresses, and a balancer that sends by each of them.

::

    balancer ----- router ----- eth0 10.3.0.11, 10.3.0.21, fd00:3::11  rs1
                      |
                      +-------- eth1 10.4.0.11, fd00:4::11             rs1

The balancer wraps byte by byte: which way a VIP's packets go is a line in a table, and may change from one to the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from tests.lab import forge
from tests.lab.agent import tunnel
from tests.lab.spaces import ip_batch
from tests.lab.vendors import Form, gre, gue, ipip, nothing, udp, version_of
from tests.lab.world import BALANCER, BALANCER_IP, BALANCER_IP6, ROUTER, RS1, VIPS, VIPS6
from tests.lab.wrapper import Wrapper

HERE, SECOND, OTHER = "10.3.0.11", "10.3.0.21", "10.4.0.11"
HERE6, OTHER6 = "fd00:3::11", "fd00:4::11"


@dataclass(frozen=True)
class Way:
    """A tunnel called *name*, with *values* in the file, and what is sent by it: to which address, in what form."""

    name: str
    encapsulation: str
    to: str
    form: Form
    values: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def outer(self) -> int:
        """The version of the header around."""
        return ip_address(self.to).version

    @property
    def text(self) -> str:
        """As the file has it."""
        more = {"load_balancers": [BALANCER_IP6]} if self.outer == 6 else {}
        return tunnel(self.encapsulation, name=self.name, **more, **self.values)

    def wrap(self, packet: bytes) -> bytes:
        """What the balancer makes of a packet to a VIP."""
        source = BALANCER_IP if self.outer == 4 else BALANCER_IP6
        protocol, payload = self.form(source, self.to, packet)
        return (forge.ip4 if self.outer == 4 else forge.ip6)(source, self.to, protocol, payload)


def way(name: str, encapsulation: str, to: str = HERE, **values: Any) -> Way:
    """A way by a tunnel that has these *values* in the file."""
    forms: dict[str, Form] = {
        "ipip": ipip,
        "gre": gre(key=values.get("key"), checksum=values.get("checksum", False)),
        "gue": udp(values.get("port", 6080), gue()),
        "fou": udp(values.get("port", 0), nothing),
    }
    return Way(name, encapsulation, to, forms[encapsulation], values)


WAYS = (
    way("ipip", "ipip"),
    way("ipip-eth1", "ipip", OTHER, local="eth1"),
    way("ipip6", "ipip", HERE6),
    way("gre", "gre"),
    way("gre-7", "gre", key=7),
    way("gre-8", "gre", key=8, checksum=True),
    way("gre-second", "gre", SECOND, local=SECOND),
    way("gre6", "gre", HERE6),
    way("gre6-eth1", "gre", OTHER6, local=OTHER6),
    way("gue", "gue"),
    way("gue-6081", "gue", port=6081),
    way("gue-eth1", "gue", OTHER, local=OTHER),
    way("gue6", "gue", HERE6),
    way("fou", "fou", port=5555),
    way("fou6", "fou", HERE6, port=5555),
)


@dataclass
class Table:
    """By which way each VIP's packets go now, by the VIP's address."""

    ways: dict[str, Way] = field(default_factory=dict)

    def wrap(self, packet: bytes) -> bytes:
        """What the balancer sends for *packet*, if it is for a VIP."""
        to = packet[16:20] if version_of(packet) == 4 else packet[24:40]
        by = self.ways.get(str(ip_address(to)))
        return by.wrap(packet) if by else b""


@contextlib.contextmanager
def balancer() -> Iterator[Table]:
    """All VIPs go where the table says; the network of `world` is there."""
    table = Table()
    with Wrapper("out", table.wrap):
        ip_batch(BALANCER, [f"route add {VIPS} dev out", f"route add {VIPS6} dev out"])
        yield table


def second_interface() -> None:
    """Give the first real server its other addresses."""
    ip_batch("", [f"link add to-rs1-too netns {ROUTER} type veth peer name eth1 netns {RS1}"])
    ip_batch(
        ROUTER,
        [
            "link set to-rs1-too up",
            "address add 10.4.0.1/24 dev to-rs1-too",
            "address add fd00:4::1/64 dev to-rs1-too nodad",
        ],
    )
    ip_batch(
        RS1,
        [
            "link set eth1 up",
            f"address add {OTHER}/24 dev eth1",
            f"address add {OTHER6}/64 dev eth1 nodad",
            f"address add {SECOND}/24 dev eth0",
        ],
    )
