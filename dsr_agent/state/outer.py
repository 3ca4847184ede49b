"""What a tunnel link looks for in the packets that arrive, and the modules that bring links and ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

# The module that brings each kind of link (the kernel asks for it as "rtnl-link-KIND").
MODULE_OF_KIND: Mapping[str, str] = {
    "ipip": "ipip",
    "sit": "sit",
    "gre": "ip_gre",
    "ip6tnl": "ip6_tunnel",
    "ip6gre": "ip6_gre",
}

MODULE_OF_PORTS = "fou"
"""The module that takes packets out of UDP."""

GUE_PORT = 6080
"""What IANA has for GUE."""

MODULES = frozenset({*MODULE_OF_KIND.values(), MODULE_OF_PORTS})


@dataclass(frozen=True, slots=True)
class Outer:
    """
    The outer header a tunnel link looks for; ``None`` means any.

    *key* and *checksum* are those of the receiving side. *protocol* is the inner protocol that a link takes which can
    take several (``ipip``, ``sit``, ``ip6tnl``; 0 is any). *external* links take everything no other link wants
    (``collect_md``). *device* is the VRF that it looks in, which links over IPv6 have to be told; a
    ``sit`` link takes only what arrives by it, and is told none.
    """

    local: IPv4Address | IPv6Address | None = None
    remote: IPv4Address | IPv6Address | None = None
    key: int | None = None
    checksum: bool = False
    sequence: bool = False
    protocol: int = 0
    external: bool = False
    device: str = ""

    def __str__(self) -> str:
        words = [f"local {self.local or 'any'}", f"remote {self.remote or 'any'}"]
        if self.key is not None:
            words.append(f"key {self.key}")
        if self.protocol not in (0, 4):
            words.append(f"inner protocol {self.protocol}")
        if self.device:
            words.append(f"dev {self.device}")
        words += [word for word in ("checksum", "sequence", "external") if getattr(self, word)]
        return " ".join(words)
