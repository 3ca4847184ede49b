"""
The difference between desired and observed, as a `Plan`. Pure.

Made from what was read back, never from what this process remembers having done, so a freshly started agent, a
running one and ``dsr-agent plan`` all say the same. The order of the steps is traffic's: what makes this host accept
packets first (VIPs, then tunnels, made down, made safe, then up), deletions last; what has to be replaced is made
beside the old one before that goes, where the kernel can have both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsr_agent.guard.transaction import removal
from dsr_agent.reconcile import fallback, foreign_links, ports, protection, silence
from dsr_agent.reconcile.bare import on_talkative_devices, over_segments
from dsr_agent.reconcile.links import plan_links
from dsr_agent.reconcile.resolve import Carried, Wanted, resolve, tunnel_address
from dsr_agent.reconcile.steps import Steps, differs
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    BringUp,
    DeleteAddress,
    DeleteLink,
    Plan,
    Problem,
    RenameLink,
    ReplaceAddress,
)
from dsr_agent.state.errors import Foreign, NotPermitted, NotYet
from dsr_agent.state.guard_actions import RemoveGuard, WriteGuard
from dsr_agent.state.marks import owns_address, owns_link
from dsr_agent.state.model import (
    GUARD,
    AddressKey,
    Desired,
    LinkKey,
    Observed,
    Scope,
)
from dsr_agent.state.port_actions import DeletePort
from dsr_agent.state.vrfs import KIND as VRF
from dsr_agent.state.why import Why
from dsr_agent.tunnels import carrier


def plan(desired: Desired, observed: Observed, scope: Scope) -> Plan:
    """
    The steps that bring what *observed* shows, as far as *scope* goes, to what *desired* says.

    Nothing without our mark is ever in a deletion. Of what is unmarked, an identical object is marked (adopted) in
    place, ``lo`` is brought up, fallback devices are taken down, and ARP sysctls are raised.
    """
    steps = Steps()
    keys: Iterable[AddressKey] = desired.addresses if scope.everything else scope.addresses
    if scope.host or scope.everything:
        missing = _plan_devices(desired, observed, steps)
        steps.blocked = _plan_conflicts(desired, observed, steps) | on_talkative_devices(desired, observed)
        steps.blocked |= {key for key in desired.addresses if key.link in missing} if missing else set()
        wanted = resolve(desired, observed)
        open_up = _plan_protection(desired, wanted, observed, steps)
        _plan_silence(desired, wanted, observed, steps)
        plan_links(wanted, observed, steps)
        ports.plan_ports(wanted, observed, steps)
        spared = _sweep_links(wanted, observed, steps)
        steps.last += open_up
        if scope.everything:
            _sweep_addresses(desired, wanted, observed, steps, spared)
    for key in keys:
        if key.ip not in desired.held and key not in steps.blocked:
            _plan_vip(key, desired, observed, steps)
    return Plan((*steps.first, *steps.vips, *steps.links, *steps.last), tuple(steps.problems), tuple(steps.warnings))


def _plan_protection(desired: Desired, wanted: Wanted, observed: Observed, steps: Steps) -> list[Action]:
    """The guard is in place before a tunnel comes up; returned is what takes it away, after the last one has gone."""
    if desired.guard and desired.guard.required:
        steps.after = (GUARD,)
    actions: list[Action] = [*protection.steps(desired, wanted, observed), *fallback.steps(desired, observed)]
    steps.first += [action for action in actions if not _opens_up(action)]
    steps.problems += protection.problems(wanted, observed)
    steps.warnings += [*protection.warnings(desired, observed), *fallback.warnings(desired, observed)]
    steps.warnings += foreign_links.warnings(desired, wanted, observed)
    steps.warnings += foreign_links.ports(desired, wanted, observed)
    return [action for action in actions if _opens_up(action)]


def _opens_up(action: Action) -> bool:
    """Whether it leaves tunnels that go unguarded; the table itself may stay, for marked packets."""
    return isinstance(action, RemoveGuard | WriteGuard) and bool(action.after)


def _plan_silence(desired: Desired, wanted: Wanted, observed: Observed, steps: Steps) -> None:
    """This host is silent on shared segments before it has a VIP; of IPv6 the kernel says nothing anyway."""
    quiet = tuple(silence.steps(wanted, observed))
    steps.first += quiet
    if before := tuple(step.key for step in quiet if step.link in wanted.bare.silent_on):
        steps.silence = {key: before for key in over_segments(desired) if key.ip.version == 4}


# --- VIPs ---------------------------------------------------------------------------------------------------------


def _plan_devices(desired: Desired, observed: Observed, steps: Steps) -> frozenset[str]:
    """
    The devices VIPs are on have to be there, and up: on one that is down the host accepts nothing.

    Returns those that are not there. Only ``lo`` is brought up by us: it is never down for a reason.
    """
    missing = set()
    for name in sorted(desired.devices):
        link = observed.links.get(name)
        if (name, name) in desired.vrfs_of_devices:  # a VRF's own, of which the tunnel says what is wrong with it
            missing |= set() if link and link.kind == VRF else {name}
        elif link is None:
            missing.add(name)
            error = NotYet(f"VIPs wait for device {name}, which is not there", 'create it, or write device = "lo"')
            steps.problems.append(Problem(LinkKey(name), error))
        elif not link.up and name == "lo":
            steps.first.append(BringUp(name, Why.DOWN))
        elif not link.up:
            error = NotYet(f"device {name} is down, so its VIPs are not accepted", f"ip link set {name} up")
            steps.problems.append(Problem(LinkKey(name), error))
    return frozenset(missing)


def _plan_vip(key: AddressKey, desired: Desired, observed: Observed, steps: Steps) -> None:
    wanted = desired.addresses.get(key)
    found = observed.addresses.get(key)
    if wanted is None:
        if found and owns_address(found) and key.ip not in desired.key_of_ip:  # else the next sweep says when
            steps.last.append(DeleteAddress(found, Why.UNWANTED))
        return
    if found is None:
        steps.vips.append(AddAddress(wanted, Why.MISSING, steps.silence.get(key, ())))
    elif not owns_address(found):
        if found.proto:
            return  # another program's mark is on it: it does its work, and adopting it would be a quarrel
        if observed.keeps_proto:  # else there is no way to mark it in place, and it does its work unmarked
            steps.vips.append(ReplaceAddress(wanted, Why.ADOPTED))
    elif differs(wanted, found, observed):
        why = Why.UNMARKED if found.proto != wanted.proto else Why.CHANGED
        steps.vips.append(ReplaceAddress(wanted, why))


def _plan_conflicts(desired: Desired, observed: Observed, steps: Steps) -> frozenset[AddressKey]:
    """
    VIPs that this host has in another place: as its own address on a segment, or in the very way of the VIP.

    Returns those that cannot be had: IPv6 knows an address on a link by the address alone, whatever its prefix.
    """
    blocked = set()
    for key, address in observed.addresses.items():
        wanted = desired.key_of_ip.get(key.ip)
        if wanted is None or key in desired.addresses or key.ip in desired.held or owns_address(address):
            continue
        link = observed.links.get(key.link)
        remedy = f"ip addr del {key.ip}/{key.prefixlen} dev {key.link}"
        if key.ip.version == 6 and key.link == wanted.link:
            blocked.add(wanted)
            steps.problems.append(Problem(wanted, Foreign(f"{key} stands in its way", f"remove that: {remedy}")))
        elif link and link.answers_arp:
            own = f"it is also this host's own address on {key.link}, which answers ARP for it"
            steps.problems.append(Problem(wanted, Foreign(own, f"write another VIP, or remove it there: {remedy}")))
    return frozenset(blocked)


# --- what is ours and no longer desired ---------------------------------------------------------------------------


def _sweep_links(wanted: Wanted, observed: Observed, steps: Steps) -> frozenset[str]:
    """
    Returned are those that are spared: they take the packets of a link that cannot be had under its own name, or a link
    that may be their successor cannot be had at all.
    """
    lacking = {problem.key for problem in steps.problems}
    spared = {name for item in wanted.links if item.link.key in lacking for name in _at_work(item, observed)}
    if steps.cannot(item.link.key for item in wanted.links):
        spared |= {link.name for link in observed.links.values() if owns_link(link) and link.up}
    names = {item.link.name for item in wanted.carried} | wanted.left_alone | spared
    spoken_for: set[str] = set()
    for action in steps.links:
        if isinstance(action, RenameLink | DeleteLink):
            spoken_for.add(action.name)
    after = tuple(item.link.key for item in wanted.carried)
    for link in observed.links.values():
        if owns_link(link) and link.name not in names and link.name not in spoken_for:
            steps.last.append(DeleteLink(link.name, Why.UNWANTED, after))
    return frozenset(spared)


def _at_work(item: Carried, observed: Observed) -> Iterator[str]:
    """The links of ours that take *item*'s packets, under whatever name."""
    means, outer = carrier(item.tunnel), item.link.outer
    assert outer is not None
    for link in observed.links.values():
        if owns_link(link) and link.up and link.kind in means.kinds and link.outer:
            if means.clashes(link.outer, outer):
                yield link.name


def _sweep_addresses(
    desired: Desired, wanted: Wanted, observed: Observed, steps: Steps, spared: frozenset[str]
) -> None:
    """A VIP that cannot come to its place stays where it is, and serves; *spared* links keep their address."""
    kept = {tunnel_address(name).key for name in wanted.left_alone | spared}
    going = {action.name for action in steps.last + steps.links if isinstance(action, DeleteLink | RenameLink)}
    for key, address in observed.addresses.items():
        if owns_address(address) and key not in desired.addresses and key not in wanted.addresses:
            if key not in kept and key.link not in going and key.ip not in desired.held:
                vip = desired.key_of_ip.get(key.ip)
                # IPv6 has an address once on a link, whatever its prefix: this one has to go before the VIP can come.
                in_the_way = key.ip.version == 6 and vip is not None and vip.link == key.link
                if in_the_way:
                    steps.vips.append(DeleteAddress(address, Why.UNWANTED))
                elif vip is None or vip in observed.addresses or vip not in steps.blocked:
                    steps.last.append(DeleteAddress(address, Why.UNWANTED, (vip,) if vip else ()))


def teardown(observed: Observed) -> Plan:
    """
    The steps that remove everything marked ours, and nothing else.

    Tunnels first: a decapsulated packet without its VIP would be a stray on a host that forwards.
    """
    doomed = {link.name for link in observed.links.values() if owns_link(link)}
    links: list[Action] = [DeletePort(port.key, Why.TEARDOWN) for port in observed.ports if port.ours]
    links += [DeleteLink(name, Why.TEARDOWN) for name in doomed]
    addresses: list[Action] = [
        DeleteAddress(address, Why.TEARDOWN)
        for key, address in observed.addresses.items()
        if owns_address(address) and key.link not in doomed
    ]
    guards = [RemoveGuard(removal(), Why.TEARDOWN, tuple(map(LinkKey, doomed)))] if observed.guard.table else []
    # Who may not look cannot say that there is none. Where nftables is lacking, there is none.
    unseen = observed.guard.unavailable
    problems = (Problem(GUARD, unseen),) if isinstance(unseen, NotPermitted) else ()
    return Plan((*links, *guards, *addresses), problems)
