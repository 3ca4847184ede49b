"""
A balancer of L3DSR: it writes a real server's address over the VIP, and a code point that says which VIP it was.

IPVS cannot send this, so the balancer is its kernel's packet filter, as stateless as the real server's. User-mode Linux
has no such filter.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.lab.spaces import inside, run, set_sysctls
from tests.lab.world import BALANCER, SERVER_IP, SERVER_IP6


def send_marked(sent: Iterable[tuple[str, str, int]]) -> None:
    """Have the balancer send VIPs on: each to its server, by its code point."""
    set_sysctls(BALANCER, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    rules = [
        f"add rule inet balancer sent ip daddr {address} ip dscp set {code} ip daddr set {SERVER_IP[server]}"
        if ":" not in address
        else f"add rule inet balancer sent ip6 daddr {address} ip6 dscp set {code} ip6 daddr set {SERVER_IP6[server]}"
        for address, server, code in sent
    ]
    chain = "add chain inet balancer sent { type filter hook prerouting priority -300; }"
    nft(BALANCER, "add table inet balancer", chain, *rules)


def nft(space: str, *commands: str) -> str:
    """Somebody runs *commands* there."""
    with inside(space):
        return run("nft", "-f", "-", given="\n".join(commands) + "\n")
