"""
FOU: UDP, and the IP packet right behind it.

On the wire that is GUE in variant 1 (draft-ietf-intarea-gue-09, 4): the first bits of an IP header say what it is. So
the kernel's port is one for GUE, which takes IPv4 and IPv6 alike; a plain one of ``fou`` takes either, and has to be
told which.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsr_agent.state.model import Tunnel
from dsr_agent.tunnels.gue import Gue, datagram


@dataclass(frozen=True)
class Fou(Gue):
    """See `Carrier`."""

    def wrap(self, tunnel: Tunnel, version: int, inner: bytes) -> bytes:
        """UDP."""
        assert tunnel.port is not None
        return datagram(tunnel.port, inner)

    def overhead(self, tunnel: Tunnel) -> int:
        """An IP header and UDP."""
        return self.header + 8
