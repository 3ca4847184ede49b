"""
The difference between desired and observed, as a `Plan`. Pure.

Made from what was read back, never from what this process remembers having done, so a freshly started agent, a
running one and ``dsr-agent plan`` all say the same. The order of the steps is traffic's: what makes this host accept
packets first (VIPs, then tunnels, made down, made safe, then up), deletions last; what has to be replaced is made
beside the old one before that goes, where the kernel can have both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from dsr_agent.guard.transaction import removal
from dsr_agent.reconcile import fallback, protection
from dsr_agent.reconcile.resolve import (
    Carried,
    Wanted,
    resolve,
    stand_in_name,
    tunnel_address,
)
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteAddress,
    DeleteLink,
    LoadModule,
    MarkLink,
    Plan,
    Problem,
    RemoveGuard,
    RenameLink,
    ReplaceAddress,
    WriteSysctl,
)
from dsr_agent.state.errors import Foreign, NotYet
from dsr_agent.state.marks import owns_address, owns_link
from dsr_agent.state.model import (
    GUARD,
    MODULE_OF_KIND,
    Address,
    AddressKey,
    Desired,
    Key,
    Link,
    LinkKey,
    Observed,
    Scope,
    Sysctl,
    SysctlKey,
)
from dsr_agent.state.why import Why
from dsr_agent.tunnels import carrier


@dataclass
class _Steps:
    """The parts of a plan while it is made; `plan` puts them in order. Tunnels come up *after* those are in place."""

    first: list[Action] = field(default_factory=list)
    vips: list[Action] = field(default_factory=list)
    links: list[Action] = field(default_factory=list)
    last: list[Action] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    after: tuple[Key, ...] = ()


def plan(desired: Desired, observed: Observed, scope: Scope) -> Plan:
    """
    The steps that bring what *observed* shows, as far as *scope* goes, to what *desired* says.

    Nothing without our mark is ever in a deletion; nothing unmarked is changed, except that an identical object is
    marked (adopted) in place.
    """
    steps = _Steps()
    keys: Iterable[AddressKey] = desired.addresses if scope.everything else scope.addresses
    missing_devices: frozenset[str] = frozenset()
    blocked: frozenset[AddressKey] = frozenset()
    if scope.host or scope.everything:
        missing_devices = _plan_devices(desired, observed, steps)
        blocked = _plan_conflicts(desired, observed, steps)
        wanted = resolve(desired, observed)
        open_up = _plan_protection(desired, wanted, observed, steps)
        _plan_tunnels(wanted, observed, steps)
        _sweep_links(wanted, observed, steps)
        steps.last += open_up
        if scope.everything:
            _sweep_addresses(desired, wanted, observed, steps)
    for key in keys:
        if key.ip not in desired.held and key.link not in missing_devices and key not in blocked:
            _plan_vip(key, desired, observed, steps)
    return Plan((*steps.first, *steps.vips, *steps.links, *steps.last), tuple(steps.problems), tuple(steps.warnings))


def _plan_protection(desired: Desired, wanted: Wanted, observed: Observed, steps: _Steps) -> list[Action]:
    """The guard is in place before a tunnel comes up; returned is what takes it away, after the last one."""
    if desired.guard and desired.guard.required:
        steps.after = (GUARD,)
    actions: list[Action] = [*protection.steps(desired, wanted, observed), *fallback.steps(desired, observed)]
    steps.first += [action for action in actions if not isinstance(action, RemoveGuard)]
    steps.warnings += [*protection.warnings(desired, observed), *fallback.warnings(desired, observed)]
    return [action for action in actions if isinstance(action, RemoveGuard)]


# --- VIPs ---------------------------------------------------------------------------------------------------------


def _plan_devices(desired: Desired, observed: Observed, steps: _Steps) -> frozenset[str]:
    """
    The devices VIPs are on have to be there, and up: on one that is down the host accepts nothing.

    Returns those that are not there. Only ``lo`` is brought up by us: it is never down for a reason.
    """
    missing = set()
    for name in sorted(desired.devices):
        link = observed.links.get(name)
        if link is None:
            missing.add(name)
            error = NotYet(f"VIPs wait for device {name}, which is not there", 'create it, or write device = "lo"')
            steps.problems.append(Problem(LinkKey(name), error))
        elif not link.up and name == "lo":
            steps.first.append(BringUp(name, Why.DOWN))
        elif not link.up:
            error = NotYet(f"device {name} is down, so its VIPs are not accepted", f"ip link set {name} up")
            steps.problems.append(Problem(LinkKey(name), error))
    return frozenset(missing)


def _plan_vip(key: AddressKey, desired: Desired, observed: Observed, steps: _Steps) -> None:
    wanted = desired.addresses.get(key)
    found = observed.addresses.get(key)
    if wanted is None:
        if found and owns_address(found):
            steps.last.append(DeleteAddress(found, Why.UNWANTED))
        return
    if found is None:
        steps.vips.append(AddAddress(wanted, Why.MISSING))
    elif not owns_address(found):
        if found.proto:
            return  # another program's mark is on it: it does its work, and adopting it would be a quarrel
        if observed.keeps_proto:  # else there is no way to mark it in place, and it does its work unmarked
            steps.vips.append(ReplaceAddress(wanted, Why.ADOPTED))
    elif _differs(wanted, found, observed):
        why = Why.UNMARKED if found.proto != wanted.proto else Why.CHANGED
        steps.vips.append(ReplaceAddress(wanted, why))


def _differs(wanted: Address, found: Address, observed: Observed) -> bool:
    """
    Whether what can be set in place differs: mark and lifetimes.

    Scope and label of an IPv4 address cannot be changed without taking it away for a moment, and are not worth that.
    """
    proto = observed.keeps_proto and found.proto != wanted.proto
    return proto or not found.permanent or (found.ip.version == 6 and found.deprecated != wanted.deprecated)


def _plan_conflicts(desired: Desired, observed: Observed, steps: _Steps) -> frozenset[AddressKey]:
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


# --- tunnels ------------------------------------------------------------------------------------------------------


def _plan_tunnels(wanted: Wanted, observed: Observed, steps: _Steps) -> None:
    steps.problems += wanted.problems
    links = dict(observed.links)  # as they will be after the steps so far
    settled = [item.link.name for item in wanted.carried if _plan_link(item, links, observed, steps)]
    for name in settled:  # the address first: without it, rp_filter = 2 drops all that a link which is up carries
        steps.links += _address_steps(name, observed)
    for name, sysctl in wanted.sysctls:
        ours = name in {item.link.name for item in wanted.carried}
        if name in observed.links and (name in settled or not ours) and not _satisfied(sysctl, observed):
            steps.links.append(WriteSysctl(sysctl, name, Why.CHANGED))
    for name in settled:
        if not observed.links[name].up:
            steps.links.append(BringUp(name, Why.DOWN, (tunnel_address(name).key, *steps.after)))


def _plan_link(item: Carried, links: dict[str, Link], observed: Observed, steps: _Steps) -> bool:
    """Plan the link that carries a tunnel; true if it is there and stays, and only its settings are left to plan."""
    wanted = item.link
    means = carrier(item.tunnel)
    assert wanted.outer is not None
    found = links.get(wanted.name)
    if found is None:
        if not _take_misnamed(item, links, observed, steps) and _clear_the_way(item, links, steps):
            _make(wanted, item, links, observed, steps, why=Why.MISSING)
        return False
    same = found.kind == wanted.kind and found.outer is not None and means.same(found.outer, wanted.outer)
    if not same and not owns_link(found):
        steps.problems.append(Problem(wanted.key, _not_ours(found, wanted)))
        return False
    if not same and not (_clear_the_way(item, links, steps) and _plan_change(item, found, links, observed, steps)):
        return False
    if found.group != wanted.group or found.alias != wanted.alias:
        ours = owns_link(found) or found.alias == wanted.alias
        steps.links.append(MarkLink(wanted.name, wanted.group, wanted.alias, Why.UNMARKED if ours else Why.ADOPTED))
    return found.name in observed.links


def _not_ours(found: Link, wanted: Link) -> Foreign:
    what = f"{found.kind or 'device'}" + (f" {found.outer}" if found.outer else "")
    return Foreign(
        f"link {found.name} is not ours, and is not what the tunnel needs ({what}, wanted {wanted.outer})",
        "remove or rename it, or give the tunnel another name",
    )


def _clear_the_way(item: Carried, links: dict[str, Link], steps: _Steps) -> bool:
    """Have no other link take the packets that *item*'s is to take: ours goes first, and anybody else's is told."""
    wanted, means = item.link, carrier(item.tunnel)
    assert wanted.outer is not None
    stand_in = stand_in_name(wanted.name) if wanted.name in links else ""
    for other in list(links.values()):
        if other.kind != wanted.kind or other.name == wanted.name:
            continue
        if other.name == stand_in and owns_link(other):
            continue  # half made to take the place of this one
        if not other.outer or not means.clashes(other.outer, wanted.outer):
            continue
        if not owns_link(other):
            error = Foreign(
                f"link {other.name} already takes these packets in another way ({other.outer}, wanted {wanted.outer})",
                f"remove it (ip link del {other.name}), or describe it in the file as it is",
            )
            steps.problems.append(Problem(wanted.key, error))
            return False
        steps.links.append(DeleteLink(other.name, Why.LEFT_OVER))
        del links[other.name]
    return True


def _take_misnamed(item: Carried, links: dict[str, Link], observed: Observed, steps: _Steps) -> bool:
    """Whether a link of ours does the work under another name, and only has to get its name back."""
    wanted, means = item.link, carrier(item.tunnel)
    assert wanted.outer is not None
    for other in links.values():
        if other.kind == wanted.kind and other.outer and owns_link(other) and means.same(other.outer, wanted.outer):
            steps.links.append(RenameLink(other.name, wanted.name, Why.MISNAMED))
            steps.links += _finish(other, wanted.name, item, observed, steps)
            links[wanted.name] = links.pop(other.name)
            return True
    return False


def _finish(found: Link, name: str, item: Carried, observed: Observed, steps: _Steps) -> Iterator[Action]:
    """Bring *found*, which is called *name* by then, to all that is wanted of the link of *item*."""
    if tunnel_address(found.name).key not in observed.addresses:
        yield AddAddress(tunnel_address(name), Why.MISSING)
    for sysctl, before in zip(item.sysctls(name), item.sysctls(found.name), strict=True):
        if not _satisfied(before, observed):
            yield WriteSysctl(sysctl, name, Why.CHANGED)
    if found.alias != item.link.alias:
        yield MarkLink(name, item.link.group, item.link.alias, Why.UNMARKED)
    if not found.up:
        yield BringUp(name, Why.DOWN, (tunnel_address(name).key, *steps.after))


def _make(link: Link, item: Carried, links: dict[str, Link], observed: Observed, steps: _Steps, *, why: Why) -> None:
    """A new link: made down and marked, made safe, then up."""
    module = MODULE_OF_KIND.get(link.kind, "")
    if module in observed.obstacles:  # not the last word: making the link asks the kernel, which may know better
        steps.problems.append(Problem(link.key, observed.obstacles[module]))
    elif module and module not in observed.modules:
        steps.links.append(LoadModule(module, Why.NEEDED))
    steps.links.append(AddLink(replace(link, up=False), why))
    steps.links += [WriteSysctl(sysctl, link.name, Why.NEW) for sysctl in item.sysctls(link.name)]
    steps.links.append(AddAddress(tunnel_address(link.name), Why.NEW))
    steps.links.append(MarkLink(link.name, link.group, link.alias, Why.NEW))
    steps.links.append(BringUp(link.name, Why.NEW, (tunnel_address(link.name).key, *steps.after)))
    links[link.name] = link


def _plan_change(item: Carried, found: Link, links: dict[str, Link], observed: Observed, steps: _Steps) -> bool:
    """
    A link of ours that takes other packets than it should: changed in place where the kernel can.

    Where it cannot, its successor is made beside it and takes over its name: deleting first loses every packet of
    the meantime (52 in a row in facts B8). Only a link of the same kind and key has to go first; what differs then
    is the mode, and one in the wrong mode carries nothing. Returns whether the link itself stays.
    """
    wanted, means = item.link, carrier(item.tunnel)
    assert wanted.outer is not None
    if found.kind == wanted.kind and found.outer and means.can_become(found.outer, wanted.outer):
        steps.links.append(ChangeLink(wanted, Why.CHANGED))
        links[wanted.name] = replace(found, outer=wanted.outer)
        return True
    if found.kind == wanted.kind and found.outer and means.clashes(found.outer, wanted.outer):
        steps.links.append(DeleteLink(found.name, Why.REPLACED))
        _make(wanted, item, links, observed, steps, why=Why.CHANGED)
        return False
    beside = replace(wanted, name=stand_in_name(wanted.name))
    successor = links.get(beside.name)
    if successor and not owns_link(successor):
        steps.problems.append(Problem(wanted.key, _not_ours(successor, beside)))
        return False
    if successor and successor.outer and means.same(successor.outer, wanted.outer):
        steps.links += _finish(successor, beside.name, item, observed, steps)
    else:
        if successor:
            steps.links.append(DeleteLink(beside.name, Why.LEFT_OVER))
        _make(beside, item, links, observed, steps, why=Why.REPLACEMENT)
    steps.links.append(DeleteLink(found.name, Why.REPLACED, (beside.key,)))
    steps.links.append(RenameLink(beside.name, wanted.name, Why.REPLACEMENT))
    links[wanted.name] = links.pop(beside.name)
    return False


def _address_steps(name: str, observed: Observed) -> Iterator[Action]:
    wanted = tunnel_address(name)
    found = observed.addresses.get(wanted.key)
    if found is None:
        yield AddAddress(wanted, Why.MISSING)
    elif _differs(wanted, found, observed):
        yield ReplaceAddress(wanted, Why.UNMARKED)


def _satisfied(sysctl: Sysctl, observed: Observed) -> bool:
    """
    Whether the value is as wanted; one that does not exist is not wanted.

    What is only raised counts as the kernel counts it: the larger of ``all`` and the link's own.
    """
    found = observed.sysctls.get(sysctl.key)
    if found is None:
        return True
    if sysctl.at_least:
        *front, _, name = sysctl.path.split("/")
        found = max(found, observed.sysctls.get(SysctlKey("/".join((*front, "all", name))), 0))
    return sysctl.satisfied_by(found)


# --- what is ours and no longer desired ---------------------------------------------------------------------------


def _sweep_links(wanted: Wanted, observed: Observed, steps: _Steps) -> None:
    names = {item.link.name for item in wanted.carried} | wanted.waiting.keys()
    spoken_for: set[str] = set()
    for action in steps.links:
        if isinstance(action, RenameLink | DeleteLink):
            spoken_for.add(action.name)
    after = tuple(item.link.key for item in wanted.carried)
    for link in observed.links.values():
        if owns_link(link) and link.name not in names and link.name not in spoken_for:
            steps.last.append(DeleteLink(link.name, Why.UNWANTED, after))


def _sweep_addresses(desired: Desired, wanted: Wanted, observed: Observed, steps: _Steps) -> None:
    going = {action.name for action in steps.last + steps.links if isinstance(action, DeleteLink | RenameLink)}
    kept = {tunnel_address(name).key for name in wanted.waiting}
    for key, address in observed.addresses.items():
        if owns_address(address) and key not in desired.addresses and key not in wanted.addresses:
            if key not in kept and key.link not in going and key.ip not in desired.held:
                vip = desired.key_of_ip.get(key.ip)
                # IPv6 has an address once on a link, whatever its prefix: this one has to go before the VIP can come.
                in_the_way = key.ip.version == 6 and vip is not None and vip.link == key.link
                (steps.vips if in_the_way else steps.last).append(DeleteAddress(address, Why.UNWANTED))


def teardown(observed: Observed) -> Plan:
    """
    The steps that remove everything marked ours, and nothing else.

    Tunnels first: a decapsulated packet without its VIP would be a stray on a host that forwards.
    """
    doomed = {link.name for link in observed.links.values() if owns_link(link)}
    links: list[Action] = [DeleteLink(name, Why.TEARDOWN) for name in doomed]
    addresses: list[Action] = [
        DeleteAddress(address, Why.TEARDOWN)
        for key, address in observed.addresses.items()
        if owns_address(address) and key.link not in doomed
    ]
    guards = [RemoveGuard(removal(), Why.TEARDOWN, tuple(map(LinkKey, doomed)))] if observed.guard.table else []
    return Plan((*links, *guards, *addresses))
