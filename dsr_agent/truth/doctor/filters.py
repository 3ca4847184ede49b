"""The guard, and the other firewalls of this host: who drops what should get in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from dsr_agent.guard.reasons import RefusalReason
from dsr_agent.kernel.headers import FRAGMENT, OPTIONS
from dsr_agent.kernel.trace import ForeignDrop, name_of_protocol
from dsr_agent.state.actions import ChangeLink, DeleteLink
from dsr_agent.state.errors import NotPermitted
from dsr_agent.state.guard_actions import WriteGuard
from dsr_agent.state.model import Ip, Tunnel
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.why import Why
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, skipped, unknown
from dsr_agent.truth.doctor.evidence import Evidence, is_in
from dsr_agent.truth.doctor.fit import fitting
from dsr_agent.truth.doctor.tunnel import APPLY
from dsr_agent.truth.findings import said, suspect
from dsr_agent.truth.probe import Way
from dsr_agent.tunnels import protocols_of

_RULES = "nft -a list ruleset"
_FIREWALL = ("firewall_behind_tunnel", "firewall_before_tunnel", "unknown")
_ENOUGH = 3  # packets, before something may be said of none of them


def guard(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether the guard is as it has to be, and what it refuses."""
    told, observed, wanted = Told(Stage.GUARD, tunnel.name), evidence.observed.guard, evidence.desired.guard
    written = next((action for action in evidence.todo.actions if isinstance(action, WriteGuard)), None)
    if wanted is None:
        yield skipped(Stage.GUARD, "the file wants none: whoever reaches this host may send", tunnel.name)
        return
    if isinstance(observed.unavailable, NotPermitted):
        yield unknown(Stage.GUARD, str(observed.unavailable), tunnel.name)
        return
    if observed.unavailable:
        make = told.fault if wanted.required else told.warning
        yield make(Cause.GUARD_UNAVAILABLE, observed.unavailable.problem, observed.unavailable.remedy)
        return
    inner = list(_inner(tunnel, evidence))
    yield from inner
    if written and any(isinstance(action, ChangeLink | DeleteLink) for action in evidence.todo.actions):
        yield skipped(Stage.GUARD, "it follows the tunnels, and one of them is other than declared", tunnel.name)
    elif written is None or written.why is Why.FOLLOWS:
        if not inner:
            yield ok(Stage.GUARD, "it is in place", *_counted(evidence), tunnel=tunnel.name)
    elif observed.table is None:
        yield told.fault(Cause.GUARD_MISSING, "its table is not there: whoever reaches this host may send", APPLY)
    else:
        yield told.fault(Cause.GUARD_OTHER, f"its table was changed: {written}", APPLY, *_counted(evidence))


def _inner(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """What the guard refuses of what declared balancers send, by the packet inside."""
    told, counted = Told(Stage.GUARD, tunnel.name), _counted(evidence)
    astray = _astray(tunnel, evidence)
    for (source, target), count in astray.items():
        seen = f"{count} packets captured in {evidence.seconds:.0f} s"
        if target in evidence.desired.key_of_ip:
            saw = f"{source} sends requests for VIP {target}, which the file does not expect from this tunnel"
            remedy = f'add "{tunnel.name}" to tunnels of VIP {target}'
        else:
            saw = f"{source} sends requests for {target}, which is no VIP of the file"
            remedy = f'add [[vip]] address = "{target}", or take this host out of that pool'
        yield told.fault(Cause.GUARD_REFUSES_INNER, saw, remedy, seen, *counted)
    if astray:
        return
    other = any(
        evidence.guarded(reason)
        for reason in (RefusalReason.PROTOCOL, RefusalReason.GRE_HEADER, RefusalReason.UDP_HEADER)
    )
    if other and not evidence.outer:
        saw = "a declared load balancer sends in a way that is not declared for it"
        yield told.warning(Cause.GUARD_REFUSES_PROTOCOL, saw, "tcpdump -nvi any not tcp and not icmp", *counted)
    if evidence.guarded(RefusalReason.INNER_SOURCE) or evidence.guarded(RefusalReason.SERVICE):
        saw = "requests are refused for what is inside: a source that no client has, or a service that is not declared"
        yield told.warning(Cause.GUARD_REFUSES_INNER, saw, "compare services of the VIPs with what is asked", *counted)


def _astray(tunnel: Tunnel, evidence: Evidence) -> dict[tuple[Ip, Ip], int]:
    """What the tunnel's balancers send for VIPs that the file has not, or not for it: by sender and VIP."""
    way = evidence.ways.get(tunnel.name)
    found: dict[tuple[Ip, Ip], int] = {}
    for packet in fitting(way, evidence) if way and evidence.about_all else ():
        if packet.inner and not evidence.meant_for(packet, tunnel):
            place = packet.source, packet.inner.destination
            found[place] = found.get(place, 0) + 1
    return found


def _counted(evidence: Evidence) -> list[str]:
    return [f'guard "{reason}" +{count}' for reason in RefusalReason if (count := evidence.guarded(reason))]


# --- other firewalls --------------------------------------------------------------------------------------------------


def card(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether another firewall of this host drops what balancers send, before the tunnel takes it; only faults."""
    told, way = Told(Stage.FIREWALL, tunnel.name), evidence.ways.get(tunnel.name)
    if way is None or way.link.outer is None:
        return
    local = str(way.link.outer.local)
    drops = [drop for drop in evidence.drops or () if drop.target == local and _declared(drop, way)]
    if drops:
        first = drops[0]
        yield told.fault(Cause.FIREWALL_DROPS, str(first), _let_pass(first, first.source), *_more(drops))
    elif _swallowed(way, evidence):
        saw = f"what load balancers send reaches this host's card, and never comes out of {way.link.name}"
        yield told.fault(Cause.FIREWALL_UNTOLD, saw, _RULES, *_moved(way, evidence))


def firewall(tunnel: Tunnel, vip: Ip, sight: Sight | None, evidence: Evidence) -> Iterator[Finding]:
    """Whether it drops what comes out of the tunnel for *vip*; *sight* is the self-test's result."""
    told, way = Told(Stage.FIREWALL, tunnel.name, vip), evidence.ways.get(tunnel.name)
    drops = [drop for drop in evidence.drops or () if drop.target == str(vip)]
    arrived = sight is not None and sight.what is Seen.ARRIVED
    if drops:  # where the self-test comes through, others' packets may be dropped for a good reason
        make = told.warning if arrived else told.fault
        yield make(Cause.FIREWALL_DROPS, str(drops[0]), _let_pass(drops[0]), *_more(drops))
    elif sight is not None and sight.what is Seen.LOST and suspect(sight) in _FIREWALL:
        evident = (*evidence.agent_drops, *_moved(way, evidence))
        yield told.fault(Cause.FIREWALL_UNTOLD, f"the self-test {said(sight)}", _RULES, *evident)
    elif sight is None and evidence.arrives(tunnel.name):
        yield ok(Stage.FIREWALL, "the self-test of others of its VIPs arrived", tunnel=tunnel.name, vip=vip)
    elif sight is not None and arrived:
        yield ok(Stage.FIREWALL, f"the self-test {said(sight)}", tunnel=tunnel.name, vip=vip)
    else:
        why = evidence.untested or (said(sight) if sight else "the self-test was sent to other VIPs only")
        yield unknown(Stage.FIREWALL, why, tunnel.name, vip)


def _declared(drop: ForeignDrop, way: Way) -> bool:
    """Whether it dropped what the tunnel takes, from one of its balancers."""
    names = [name_of_protocol(protocol) for protocol in protocols_of(way.tunnel)]
    if way.tunnel.version == 6:  # the first of the headers is all that is told
        names += [name_of_protocol(protocol) for protocol in (*OPTIONS, FRAGMENT)]
    if not any(drop.packet.startswith(f"{name} ") for name in names):
        return False
    return not way.tunnel.load_balancers or is_in(ip_address(drop.source), way.tunnel.load_balancers)


def _let_pass(drop: ForeignDrop, sender: str = "") -> str:
    ip = "ip6" if ":" in drop.target else "ip"
    source = f"{ip} saddr {sender} " if sender else ""
    return f"nft insert rule {drop.family} {drop.table} {drop.chain} {source}{ip} daddr {drop.target} accept"


def _more(drops: Iterable[ForeignDrop]) -> list[str]:
    """The other places where some were dropped."""
    return list(dict.fromkeys(drop.where for drop in drops))[1:]


def _swallowed(way: Way, evidence: Evidence) -> bool:
    """Whether good packets came to the card, and the link has taken no more than the self-test sent."""
    good = [packet for packet in fitting(way, evidence) if not packet.fragment]
    tests = sum(sight.sent for _, sight in evidence.sights_of(way.tunnel.name))
    received = evidence.received(way.link.name)
    return len(good) >= _ENOUGH and not received.errors and received.packets <= tests


def _moved(way: Way | None, evidence: Evidence) -> list[str]:
    found = [f"{way.link.name} rx_packets +{evidence.received(way.link.name).packets}"] if way else []
    return [*found, *evidence.moved("IpInDiscards", "Ip6InDiscards")]
