"""GRE (RFC 2784, keys RFC 2890, over IPv6 RFC 7676; protocol 47), carried by a ``gre`` or ``ip6gre`` link."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dsr_agent.state.checksum import internet_checksum
from dsr_agent.state.model import Ip, Outer, Tunnel

_CHECKSUM, _KEY = 0x8000, 0x2000
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}


@dataclass(frozen=True)
class Gre:
    """See `Carrier`."""

    kinds: tuple[str, ...]
    header: int
    """The length of the outer IP header."""

    def protocol(self, version: int) -> int:
        """GRE's own."""
        return 47

    def outer(self, tunnel: Tunnel, local: Ip, kind: str, vrf: str = "") -> Outer:
        """Key and checksum exactly as the balancer sends them: a mismatch either way drops silently (facts B1)."""
        return Outer(local=local, key=tunnel.key, checksum=tunnel.checksum)

    def same(self, found: Outer, wanted: Outer) -> bool:
        """Everything counts: key, checksum and sequence numbers must match the packets."""
        return found == wanted

    def can_become(self, found: Outer, wanted: Outer) -> bool:
        """Local, key, checksum and sequence, yes; remote any to one or back, and external, no (facts A8)."""
        return found.remote == wanted.remote and not found.external

    def clashes(self, found: Outer, wanted: Outer) -> bool:
        """The kernel keys gre links by local, remote and key."""
        return (found.local, found.remote, found.key, found.external) == (
            wanted.local,
            wanted.remote,
            wanted.key,
            wanted.external,
        )

    def wrap(self, tunnel: Tunnel, version: int, inner: bytes) -> bytes:
        """Flags and payload type, then checksum and key where they are declared (RFC 2784, RFC 2890)."""
        flags = _CHECKSUM * tunnel.checksum | _KEY * (tunnel.key is not None)
        front = struct.pack(">HH", flags, _ETHERTYPES[version])
        key = b"" if tunnel.key is None else struct.pack(">I", tunnel.key)
        if not tunnel.checksum:
            return front + key + inner
        total = internet_checksum(front + bytes(4) + key + inner)
        return front + struct.pack(">HH", total, 0) + key + inner

    def overhead(self, tunnel: Tunnel) -> int:
        """An IP header and four bytes of GRE, four more for a key and for a checksum."""
        return self.header + 4 + 4 * (tunnel.key is not None) + 4 * tunnel.checksum
