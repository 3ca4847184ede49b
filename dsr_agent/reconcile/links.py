"""
The steps that bring the tunnels' links to what is wanted. Pure.

Made down, made safe, then up; what has to be replaced is made beside the old one before that goes, where the kernel can
have both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from dsr_agent.reconcile.resolve import Carried, Wanted, tunnel_address
from dsr_agent.reconcile.silence import satisfied
from dsr_agent.reconcile.steps import Steps, differs
from dsr_agent.state.actions import (
    Action,
    AddAddress,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteLink,
    LoadModule,
    MarkLink,
    MoveLink,
    Problem,
    RenameLink,
    ReplaceAddress,
    WriteSysctl,
)
from dsr_agent.state.errors import Foreign
from dsr_agent.state.marks import owns_link, stand_in_name
from dsr_agent.state.model import Link, LinkKey, Observed
from dsr_agent.state.outer import MODULE_OF_KIND
from dsr_agent.state.why import Why
from dsr_agent.tunnels import carrier


def plan_links(wanted: Wanted, observed: Observed, steps: Steps) -> None:
    steps.problems += wanted.problems
    links = dict(observed.links)  # as they will be after the steps so far
    given = _give_names(wanted, links, observed, steps)
    settled = [i.link.name for i in wanted.links if i.link.name not in given and _plan_link(i, links, observed, steps)]
    for name in settled:  # the address first: without it, rp_filter = 2 drops all that a link which is up carries
        steps.links += _address_steps(name, observed)
    for name, sysctl in wanted.sysctls:
        if name in settled and not satisfied(sysctl, observed):
            steps.links.append(WriteSysctl(sysctl, name, Why.CHANGED))
    for name in settled:
        if not observed.links[name].up:
            steps.links.append(BringUp(name, Why.DOWN, (tunnel_address(name).key, *steps.after)))


def _plan_link(item: Carried, links: dict[str, Link], observed: Observed, steps: Steps) -> bool:
    """Plan the link that carries a tunnel; true if it is there and stays, and only its settings are left to plan."""
    wanted = item.link
    means = carrier(item.tunnel)
    assert wanted.outer is not None
    found = links.get(wanted.name)
    if found is None:
        if _clear_the_way(item, links, steps):
            _make(wanted, item, links, observed, steps, why=Why.MISSING)
        return False
    same = found.kind == wanted.kind and found.outer is not None and means.same(found.outer, wanted.outer)
    if not same and not owns_link(found):
        steps.problems.append(Problem(wanted.key, _not_ours(found, wanted)))
        return False
    if found.master != wanted.master and not owns_link(found):
        steps.problems.append(Problem(wanted.key, _belongs_elsewhere(found, wanted)))
        return False
    if not same and not (_clear_the_way(item, links, steps) and _plan_change(item, found, links, observed, steps)):
        return False
    if found.group != wanted.group or found.alias != wanted.alias:
        ours = owns_link(found) or found.alias == wanted.alias
        steps.links.append(MarkLink(wanted.name, wanted.group, wanted.alias, Why.UNMARKED if ours else Why.ADOPTED))
    if found.master != wanted.master:
        steps.links.append(MoveLink(wanted.name, wanted.master, Why.CHANGED))
    return found.name in observed.links


def _not_ours(found: Link, wanted: Link) -> Foreign:
    what = f"{found.kind or 'device'}" + (f" {found.outer}" if found.outer else "")
    text = f"link {found.name} is not ours, and is not what the tunnel needs ({what}, wanted {wanted.outer})"
    aside = "remove or rename it, or " if found.kind else ""  # that of a network card is not advice
    return Foreign(text, f"{aside}give the tunnel another name")


def _belongs_elsewhere(found: Link, wanted: Link) -> Foreign:
    text = f"link {found.name} is not ours, and belongs to {found.master or 'no VRF'}"
    if wanted.master:
        return Foreign(f"{text} instead of VRF {wanted.master}", f"ip link set {found.name} master {wanted.master}")
    return Foreign(text, f'write vrf = "{found.master}" if that is a VRF, or ip link set {found.name} nomaster')


def _in_the_way(other: Link, wanted: Link) -> Foreign:
    """*other* is somebody else's. The file has words for key and checksum, and none for what else may differ."""
    assert other.outer
    assert wanted.outer
    here = str(other.outer)
    if other.kind != "ipip" and other.outer.protocol == 4:  # what an ipip link has anyway
        here += " inner protocol 4"
    alike = replace(other.outer, key=wanted.outer.key, checksum=wanted.outer.checksum) == wanted.outer
    return Foreign(
        f"link {other.name} already takes these packets in another way ({here}, wanted {wanted.outer})",
        f"remove it (ip link del {other.name})" + (", or describe it in the file as it is" if alike else ""),
    )


def _clear_the_way(item: Carried, links: dict[str, Link], steps: Steps) -> bool:
    """Have no other link take the packets that *item*'s is to take: ours goes first, and anybody else's is told."""
    wanted, means = item.link, carrier(item.tunnel)
    assert wanted.outer is not None
    for other in list(links.values()):
        if other.kind not in means.kinds or other.name == wanted.name:
            continue
        if other.kind != wanted.kind and (owns_link(other) or other.kind != "ipip"):
            continue  # the kernel can have both, and ours goes once the new one is there; an ipip link comes first
        if not other.outer or not means.clashes(other.outer, wanted.outer):
            continue
        if not owns_link(other):
            steps.problems.append(Problem(wanted.key, _in_the_way(other, wanted)))
            return False
        steps.links.append(DeleteLink(other.name, Why.LEFT_OVER))
        del links[other.name]
    return True


def worker(item: Carried, links: Mapping[str, Link]) -> Link | None:
    """
    The link of ours that takes exactly *item*'s packets, under whatever name; the right name comes first.

    Failing that, one that has its place in the kernel and can be changed in place, so that it need not go first.
    """
    wanted, means = item.link, carrier(item.tunnel)
    assert wanted.outer is not None
    fit, near = [], []
    for link in links.values():
        if link.kind == wanted.kind and link.outer and owns_link(link):
            if means.same(link.outer, wanted.outer):
                fit.append(link)
            elif means.clashes(link.outer, wanted.outer) and means.can_become(link.outer, wanted.outer):
                near.append(link)
    return next((link for link in fit if link.name == wanted.name), next(iter(fit or near), None))


def _give_names(wanted: Wanted, links: dict[str, Link], observed: Observed, steps: Steps) -> frozenset[str]:
    """
    Have the links that do their work under another name get their own; returned are the names that are given.

    Before anything is changed or deleted: tunnels that trade names in the file, or hand one on, lose no packet. A link
    of ours that has such a name and does nothing that is wanted goes, once its successor is all that it should be.
    """
    found = {item.link.name: (item, worker(item, observed.links)) for item in wanted.links}
    moves = {name: (item, link) for name, (item, link) in found.items() if link and link.name != name}
    now = {name: link.name for name, (_, link) in moves.items()}  # where each is after the steps so far
    given = set()
    while now:
        name = next((name for name in now if name not in links), None) or next(
            (name for name in now if name not in now.values() and owns_link(links[name])), ""
        )
        if not name and not (name := _step_aside(now, links, steps)):
            break
        item, link = moves[name]
        if name in links:
            steps.links += _finish(link, now[name], item, observed, steps)
            steps.links.append(DeleteLink(name, Why.REPLACED, (LinkKey(now[name]),)))
            steps.links.append(RenameLink(now[name], name, Why.REPLACEMENT))
        else:
            steps.links.append(RenameLink(now[name], name, Why.MISNAMED))
            steps.links += _finish(link, name, item, observed, steps)
        del links[now.pop(name)]
        links[name] = replace(link, name=name)
        given.add(name)
    return frozenset(given)


def _step_aside(now: dict[str, str], links: dict[str, Link], steps: Steps) -> str:
    """All names that are wanted are taken: have one of them become free, and say which; empty if none can."""
    for name, current in now.items():
        aside = stand_in_name(name)
        if current in now and aside not in links:
            steps.links.append(RenameLink(current, aside, Why.MISNAMED))
            links[aside] = replace(links.pop(current), name=aside)
            now[name] = aside
            return current
    return ""


def _finish(found: Link, name: str, item: Carried, observed: Observed, steps: Steps) -> Iterator[Action]:
    """Bring *found*, which is called *name* by then, to all that is wanted of the link of *item*."""
    assert found.outer is not None
    assert item.link.outer is not None
    if not carrier(item.tunnel).same(found.outer, item.link.outer):
        yield ChangeLink(replace(item.link, name=name), Why.CHANGED)
    if tunnel_address(found.name).key not in observed.addresses:
        yield AddAddress(tunnel_address(name), Why.MISSING)
    for sysctl, before in zip(item.sysctls(name), item.sysctls(found.name), strict=True):
        if not satisfied(before, observed):
            yield WriteSysctl(sysctl, name, Why.CHANGED)
    if found.master != item.link.master:
        yield MoveLink(name, item.link.master, Why.CHANGED)
    if found.alias != item.link.alias:
        yield MarkLink(name, item.link.group, item.link.alias, Why.UNMARKED)
    if not found.up:
        yield BringUp(name, Why.DOWN, (tunnel_address(name).key, *steps.after))


def _make(link: Link, item: Carried, links: dict[str, Link], observed: Observed, steps: Steps, *, why: Why) -> None:
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


def _plan_change(item: Carried, found: Link, links: dict[str, Link], observed: Observed, steps: Steps) -> bool:
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
    elif differs(wanted, found, observed):
        yield ReplaceAddress(wanted, Why.UNMARKED)
