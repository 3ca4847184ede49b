"""
GUE (draft-ietf-intarea-gue-09, variant 0): UDP, four bytes that say what follows, and fields that a sender may add.

The kernel takes UDP and GUE off at the port (``net/ipv4/fou_core.c``) and goes on as if the packet had come as IP in
IP, so the link is that of `ipip`. Checksums and remote checksum offload are the sender's choice; any is taken.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dsr_agent.state.model import Tunnel
from dsr_agent.tunnels.ipip import Ipip

_UDP = struct.Struct(">HHHH")
_SOURCE = 49152  # the first of the dynamic ports, where senders take theirs from
_REMOTE_CHECKSUM = 8


def datagram(port: int, payload: bytes) -> bytes:
    """*payload* in UDP without a checksum, which the kernel takes here over IPv6, too (RFC 6935)."""
    return _UDP.pack(_SOURCE, port, _UDP.size + len(payload), 0) + payload


@dataclass(frozen=True)
class Gue(Ipip):
    """See `Carrier`."""

    def protocol(self, version: int) -> int:
        """UDP."""
        return 17

    def wrap(self, tunnel: Tunnel, version: int, inner: bytes) -> bytes:
        """UDP, and a GUE header without fields: variant, control bit and length are 0, then the protocol, no flags."""
        assert tunnel.port is not None
        return datagram(tunnel.port, struct.pack(">BBH", 0, super().protocol(version), 0) + inner)

    def overhead(self, tunnel: Tunnel) -> int:
        """An IP header, UDP, GUE, and room for the fields of remote checksum offload: whether it is used, who knows."""
        return self.header + _UDP.size + 4 + _REMOTE_CHECKSUM
