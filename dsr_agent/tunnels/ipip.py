"""
IP in IP: RFC 2003 (4 in 4), 4213 (6 in 4), 2473 (in IPv6). What follows the outer header is the packet itself.

Over IPv4 a ``sit`` link in mode "any" takes IPv4 (protocol 4) and IPv6 (41), and costs less than an ``ipip`` link,
which takes IPv4 alone (facts B1, B4); over IPv6 an ``ip6tnl`` link takes both.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsr_agent.state.model import Ip, Outer, Tunnel

_ANY, _IPV4 = 0, 4
_PROTOCOLS = {4: 4, 6: 41}


@dataclass(frozen=True)
class Ipip:
    """See `Carrier`."""

    kinds: tuple[str, ...]
    header: int
    """The length of the outer IP header."""

    def protocol(self, version: int) -> int:
        """The number of the packet inside."""
        return _PROTOCOLS[version]

    def outer(self, tunnel: Tunnel, local: Ip, kind: str, vrf: str = "") -> Outer:
        """
        Any balancer's address as the source; which may come in is the guard's business, not the link's.

        An ``ip6tnl`` link looks for its own address among those of its device's VRF, or of no VRF, before it takes
        anything (``net/ipv6/ip6_tunnel.c``, ip6_tnl_rcv_ctl); the others do not ask.
        """
        return Outer(local=local, protocol=_IPV4 if kind == "ipip" else _ANY, device=vrf if kind == "ip6tnl" else "")

    def same(self, found: Outer, wanted: Outer) -> bool:
        """Mode "any", which ``ip link add type ipip`` makes (facts A1), takes all packets that another one does."""
        return (
            found.local == wanted.local
            and found.remote == wanted.remote
            and found.external == wanted.external
            and found.device == wanted.device
            and found.protocol in (_ANY, wanted.protocol)
        )

    def can_become(self, found: Outer, wanted: Outer) -> bool:
        """
        The local address, yes. Remote any to one or back is refused, and a change of mode is silently ignored.

        Both measured in facts A8.
        """
        return found.remote == wanted.remote and not found.external and found.protocol in (_ANY, wanted.protocol)

    def clashes(self, found: Outer, wanted: Outer) -> bool:
        """The kernel keys these links by local and remote."""
        return (found.local, found.remote, found.external) == (wanted.local, wanted.remote, wanted.external)

    def wrap(self, tunnel: Tunnel, version: int, inner: bytes) -> bytes:
        """Nothing in between."""
        return inner

    def overhead(self, tunnel: Tunnel) -> int:
        """An IP header."""
        return self.header
