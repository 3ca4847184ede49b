"""
The devices that the kernel makes by itself: ``tunl0``, ``gre0``, ``sit0`` and their like. Pure.

One that is up takes what no tunnel takes, in its own protocol, from anybody and to every address of the host.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.reconcile.local import OF_SIT_LINKS
from dsr_agent.state.actions import Problem, TakeDown
from dsr_agent.state.errors import Foreign
from dsr_agent.state.marks import FALLBACK_DEVICES
from dsr_agent.state.model import Desired, Link, Observed
from dsr_agent.state.why import Why

_KINDS = frozenset({"ipip", "gre", "gretap", "erspan", "sit", "ip6tnl", "ip6gre", "vti", "vti6"})


def steps(desired: Desired, observed: Observed) -> Iterator[TakeDown]:
    """Those that are to be taken down."""
    for link in _up(observed):
        if not _spared(link, desired, observed):
            yield TakeDown(link.name)


def warnings(desired: Desired, observed: Observed) -> Iterator[Problem]:
    """Those that are left up."""
    for link in _up(observed):
        if _spared(link, desired, observed):
            has = " and has an address" if _used(link, observed) else ""
            text = f"it is up{has}, and {Why.FALLBACK.removeprefix('it ')}"
            remedy = f'ip link set {link.name} down, or write [guard] fallback_devices = "down"'
            yield Problem(link.key, Foreign(text, remedy))


def _up(observed: Observed) -> Iterator[Link]:
    for name in sorted(FALLBACK_DEVICES & observed.links.keys()):
        link = observed.links[name]
        if link.up and link.kind in _KINDS:
            yield link


def _spared(link: Link, desired: Desired, observed: Observed) -> bool:
    """One that has an address is somebody's tunnel, until the file says otherwise."""
    if desired.fallback_devices == "auto":
        return _used(link, observed)
    return desired.fallback_devices == "ignore"


def _used(link: Link, observed: Observed) -> bool:
    addresses = [key.ip for key in observed.addresses if key.link == link.name]
    return any(not (ip.is_link_local or ip in OF_SIT_LINKS) for ip in addresses)
