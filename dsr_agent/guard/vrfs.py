"""
What is different where there are VRFs. Pure.

What arrives by a link of a VRF meets the rules twice: as it arrives, and again as if it came by the VRF's own link, to
which the packet is handed on (``drivers/net/vrf.c``, vrf_rcv_nfhook). What this host sends to itself in a VRF comes by
that link too, once, as elsewhere by ``lo``. The two cannot be told apart in prerouting, where the kernel does not tell
the first link (``net/netfilter/nft_meta.c``, nft_meta_get_validate_sdif), but by who sent it: only this host itself has
its own addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsr_agent.guard.expressions import ACCEPT, Expression, match, meta, packet, refuse, rule
from dsr_agent.guard.reasons import RefusalReason

_BY_A_VRF = match(meta("iifkind"), "vrf")


def from_here(*, vrfs: bool) -> tuple[Expression, ...]:
    """The ways of asking whether this host itself sent a packet."""
    lo = match(meta("iifname"), "lo")
    return (lo, _BY_A_VRF) if vrfs else (lo,)


def seen_before() -> Iterator[str]:
    """The rules that let go what was asked about as it arrived: asked twice, it would count twice."""
    for version, protocol in ((4, "ip"), (6, "ip6")):
        yield rule(_BY_A_VRF, match(packet(protocol, "saddr"), f"@own{version}", "!="), ACCEPT)


def forwarding(links: Iterable[str]) -> Iterator[str]:
    """What came out of a tunnel in a VRF is not forwarded: by then it comes by the VRF's link, and not by ours."""
    for link in sorted(links):
        yield rule(match(meta("sdifname"), link), *refuse(RefusalReason.FORWARD))
