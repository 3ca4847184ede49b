"""IPIP over IPv4 (RFC 2003, protocol 4), carried by an ``ipip`` link. Inner IPv4 only."""

from __future__ import annotations

from dsr_agent.state.model import Ip, Outer, Tunnel

_IPPROTO_IPIP = 4
# What takes an inner IPv4 packet: "ipip/ipip", and "any", which ``ip link add type ipip`` makes (facts A1).
_CARRIES_IPV4 = (0, _IPPROTO_IPIP)


class Ipip:
    """See `Carrier`."""

    kind = "ipip"
    protocol = _IPPROTO_IPIP
    carries = frozenset({4})

    def outer(self, tunnel: Tunnel, local: Ip) -> Outer:
        """Any balancer's address as the source; which may come in is the guard's business, not the link's."""
        return Outer(local=local, protocol=_IPPROTO_IPIP)

    def same(self, found: Outer, wanted: Outer) -> bool:
        """Mode "any" takes the same IPv4 packets."""
        return (
            found.local == wanted.local
            and found.remote == wanted.remote
            and found.external == wanted.external
            and found.protocol in _CARRIES_IPV4
        )

    def can_become(self, found: Outer, wanted: Outer) -> bool:
        """
        The local address, yes. Remote any to one or back is refused, and a change of mode is silently ignored.

        Both measured in facts A8.
        """
        return found.remote == wanted.remote and not found.external and found.protocol in _CARRIES_IPV4

    def clashes(self, found: Outer, wanted: Outer) -> bool:
        """The kernel keys ipip links by local and remote."""
        return (found.local, found.remote, found.external) == (wanted.local, wanted.remote, wanted.external)

    def wrap(self, tunnel: Tunnel, version: int, inner: bytes) -> bytes:
        """Nothing in between."""
        return inner

    def overhead(self, tunnel: Tunnel) -> int:
        """An IPv4 header."""
        return 20
