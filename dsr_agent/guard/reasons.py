"""What a refused packet is counted as."""

from __future__ import annotations

from enum import StrEnum


class RefusalReason(StrEnum):
    """The first that fits, in this order; also the name of a counter in the table."""

    SOURCE = "source"
    """Wrapped by nobody declared."""
    PROTOCOL = "protocol"
    """Wrapped by a declared balancer, in a way that is not declared for it."""
    GRE_HEADER = "gre_header"
    """By a declared balancer in GRE, but key, checksum, version, flags or payload type are not the tunnel's."""
    UDP_HEADER = "udp_header"
    """By a declared balancer to its tunnel's UDP port, but not as declared: no GUE, or no IP packet in it."""
    INNER_DESTINATION = "inner_destination"
    """Out of a tunnel, and not to a VIP."""
    INNER_SOURCE = "inner_source"
    """Out of a tunnel, from an address that no client can have: this host's own, a VIP, loopback, multicast."""
    NESTED = "nested"
    """Out of a tunnel, to a VIP, and wrapped once more."""
    SERVICE = "service"
    """Out of a tunnel, to a VIP, and not to a service that it declares."""
    FORWARD = "forward"
    """Would have been forwarded from or to a tunnel."""
