"""What stands between the outer and the inner IP header, as a rule asks for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.guard.expressions import IPIP, SIX_IN_FOUR, Expression, bits, match, packet, raw

# The flags that a tunnel takes are those it is declared with (RFC 2784, 2890); a balancer may number its packets as it
# likes. Everything else in the first two bytes, version and routing among it, has to be zero: the kernel takes some.
_CHECKSUM, _KEY, _SEQUENCE = 0x8000, 0x2000, 0x1000
_FLAGS = 0xFFFF ^ _SEQUENCE
_ETHERTYPES = (0x0800, 0x86DD)

# GUE (draft-ietf-intarea-gue-09): variant and control bit, which are 0, how many words of fields follow, and then the
# protocol of what is inside. A sender may add fields; the kernel takes those that it knows. Not as one masked number:
# nftables 1.1.3 forgets a mask with a hole when it reads that back.
_VARIANT_AND_CONTROL, _PROTOCOL = bits(raw(64, 8), 0xE0), raw(72, 8)
# Without GUE, an IP header's version.
_VERSION, _DIRECT = bits(raw(64, 8), 0xF0), (0x40, 0x60)


def gre_headers(key: int | None, *, checksum: bool) -> Iterator[tuple[Expression, ...]]:
    """The GRE headers that a tunnel takes: one for each version of IP inside."""
    flags = _CHECKSUM * checksum | _KEY * (key is not None)
    for ethertype in _ETHERTYPES:
        # The first 16 bits of a transport header are called sport and the next dport, whatever they are. Not both in
        # one: nftables 1.0.6 aborts when it reads that back.
        first = match(bits(packet("th", "sport"), _FLAGS), flags), match(packet("th", "dport"), ethertype)
        if key is None:
            yield first
        else:
            yield *first, match(raw(64 if checksum else 32, 32), key)


def udp_headers(*, direct: bool) -> Iterator[tuple[Expression, ...]]:
    """What follows the UDP header: GUE around IPv4 or IPv6, or (*direct*) one of these itself."""
    if direct:
        yield from ((match(_VERSION, version),) for version in _DIRECT)
    else:
        whole = match(_VARIANT_AND_CONTROL, 0)
        yield from ((whole, match(_PROTOCOL, protocol)) for protocol in (IPIP, SIX_IN_FOUR))


def later_fragment(version: int) -> Expression:
    """A fragment other than the first."""
    if version == 4:
        return match(bits(packet("ip", "frag-off"), 0x1FFF), 0, "!=")
    return match({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!=")
