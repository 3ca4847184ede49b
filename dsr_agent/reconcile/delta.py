"""From *these keys changed* to *look there*: the cost of a change must not be the cost of all VIPs. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address

from dsr_agent.reconcile.bare import over_segments
from dsr_agent.state.local import LocalOf
from dsr_agent.state.marks import FALLBACK_DEVICES, stand_in_name
from dsr_agent.state.model import EVERYTHING, GUARD, ROUTES, AddressKey, Changes, Desired, LinkKey, Scope, SysctlKey

_LOOPBACK6 = IPv6Address("::1")


def scope_of(changes: Changes, desired: Desired, ours: frozenset[str]) -> Scope:
    """
    Where to look after *changes*; empty when none of them concerns us.

    *ours* are the links that carried our mark when last looked at. What is not covered here (somebody setting our
    mark on a link, say) is found by the slow resync.
    """
    if changes.lost:
        return EVERYTHING
    ours |= frozenset(desired.linked) | frozenset(stand_in_name(name) for name in desired.linked)
    watched = (
        ours
        | FALLBACK_DEVICES
        | {tunnel.local.link for tunnel in desired.tunnels.values() if isinstance(tunnel.local, LocalOf)}
    )
    arriving = {tunnel.version for tunnel in desired.linked.values()} | {4}
    if len(desired.linked) < len(desired.tunnels):  # what is not wrapped arrives over both
        arriving.add(6)
    silent = over_segments(desired)
    addresses = set()
    host = False
    for key in changes.keys:
        if isinstance(key, AddressKey):
            if key in desired.addresses:
                addresses.add(key)
                # Nobody must be able to ask for it when it comes back; what else is on a card says whether they can.
                host |= key in silent or key.link != "lo"
            elif key.ip == _LOOPBACK6:
                return EVERYTHING  # this host has IPv6 again: all VIPs have gone with it
            else:
                # A VIP's own address elsewhere, or with another prefix, is in its way.
                host |= key.ip.version in arriving or key.link in ours or key.ip in desired.key_of_ip
        elif isinstance(key, LinkKey):
            if key.name in desired.devices:
                return EVERYTHING  # its VIPs may have gone with it, or have to come
            host |= key.name in watched
        elif isinstance(key, SysctlKey):
            host |= key.path.rsplit("/", 1)[-1] in ours | {"all"}
        elif key in (ROUTES, GUARD):
            host = True
    return Scope(host=host, addresses=frozenset(addresses))


def only_routes(changes: Changes) -> bool:
    """Whether nothing but routes changed: a routing daemon may do that by the thousand, and it can wait a little."""
    return not changes.lost and changes.keys == {ROUTES}
