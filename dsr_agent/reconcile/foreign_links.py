"""
Somebody else's tunnels at the addresses where ours arrive: what they take from us, and what the guard keeps from them.

They are left alone, so all that can be done is to say it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.reconcile.resolve import Carried, Wanted
from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import Foreign
from dsr_agent.state.marks import FALLBACK_DEVICES, owns_link
from dsr_agent.state.model import Desired, Link, Observed
from dsr_agent.tunnels import PROTOCOLS_OF_KIND, carrier


def warnings(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[Problem]:
    """One for each of them that is up. The kernel prefers the link that names the sender (``ip_tunnel_lookup``)."""
    guarded = desired.guard is not None and not observed.guard.unavailable
    for name, link in sorted(observed.links.items()):
        if owns_link(link) or not link.up or name in FALLBACK_DEVICES or link.kind not in PROTOCOLS_OF_KIND:
            continue
        here = [item for item in wanted.links if _meets(link, item)]
        if robbed := next((item for item in here if _takes_from(link, item)), None):
            whose = f"load balancer {link.outer.remote}" if link.outer else ""
            text = f"it takes what {whose} sends to tunnel {robbed.tunnel.name}, and nobody looks after it"
            yield Problem(link.key, Foreign(text, f"ip link del {name}"))
        elif here and guarded and link.outer and link.outer.remote:
            local = here[0].link.outer.local if here[0].link.outer else ""
            text = f"the guard drops what {link.outer.remote} sends it at {local}, where only load balancers may send"
            yield Problem(link.key, Foreign(text, "give it, or the tunnel, another local address"))


def ports(desired: Desired, wanted: Wanted, observed: Observed) -> Iterator[Problem]:
    """Somebody else's UDP ports at an address of a tunnel, which the guard shuts: behind them are our links."""
    if desired.guard is None or observed.guard.unavailable:
        return
    wanted_ports = {item.port for item in wanted.carried if item.port}
    locals_ = {item.link.outer.local for item in wanted.links if item.link.outer}
    for port in sorted(observed.ports, key=str):
        here = [local for local in locals_ if local and local.version == port.key.version]
        here = [local for local in here if port.key.local in (None, local)]
        if port.ours or not here or any(port.key.keeps_out(key) for key in wanted_ports):
            continue
        text = f"the guard drops what comes to it at {here[0]}: it would come out of the tunnels there, whoever sent it"
        yield Problem(port.key, Foreign(text, "give it, or the tunnel, another local address"))


def _meets(link: Link, item: Carried) -> bool:
    """Whether both look at one address."""
    here, there = link.outer, item.link.outer
    if here is None or there is None or there.local is None:
        return False
    return here.local in (None, there.local) and link.kind.startswith("ip6") is (there.local.version == 6)


def _takes_from(link: Link, item: Carried) -> bool:
    """Whether packets of a declared load balancer come out of *link* instead."""
    outer, wanted = link.outer, item.link.outer
    if outer is None or wanted is None or outer.remote is None or link.kind not in carrier(item.tunnel).kinds:
        return False
    return outer.key == wanted.key and any(outer.remote in network for network in item.tunnel.load_balancers)
