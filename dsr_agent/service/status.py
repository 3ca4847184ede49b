"""What this host has and lacks, tunnel by tunnel and VIP by VIP: as values, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dsr_agent.reconcile.plan import plan
from dsr_agent.reconcile.resolve import Wanted, resolve
from dsr_agent.state.actions import Action, Plan, Problem
from dsr_agent.state.errors import NotPermitted
from dsr_agent.state.local import LocalOf
from dsr_agent.state.marks import owns_link, stand_in_name
from dsr_agent.state.model import (
    EVERYTHING,
    GUARD,
    AddressKey,
    Desired,
    Key,
    Link,
    LinkKey,
    Observed,
    Tunnel,
    TunnelKey,
)
from dsr_agent.state.table import ObservedGuard
from dsr_agent.truth.listeners import Service, ServiceFinding, services_of

Findings: TypeAlias = Mapping[Service, ServiceFinding]


@dataclass(frozen=True, slots=True)
class Status:
    """What ``dsr-agent status`` is about: the file, the host, and the difference."""

    desired: Desired
    observed: Observed
    wanted: Wanted
    todo: Plan
    running: int | None

    @classmethod
    def of(cls, desired: Desired, observed: Observed, running: int | None) -> Status:
        """Hold *observed* against *desired*."""
        return cls(desired, observed, resolve(desired, observed), plan(desired, observed, EVERYTHING), running)


def as_json(now: Status, listeners: Findings) -> dict[str, Any]:
    """What ``dsr-agent status --json`` prints, and ``/status`` answers."""
    troubles = troubles_of(now.todo)
    return {
        "in_sync": not now.todo,
        "agent": {"running": now.running is not None, "pid": now.running},
        "guard": guard_row(now),
        "tunnels": list(tunnel_rows(now)),
        "vips": [vip_row(key, now, troubles, listeners) for key in now.desired.vips],
        "actions": [action_json(action) for action in now.todo.actions],
        "problems": problems_json(now.todo.problems),
        "warnings": problems_json(now.todo.warnings),
    }


def troubles_of(todo: Plan) -> dict[Key, list[str]]:
    """What is to be said about each key."""
    found: dict[Key, list[str]] = {}
    for action in todo.actions:
        if not action.why.is_part:
            found.setdefault(action.key, []).append(f"{action} ({action.why})")
    for problem in todo.problems:
        found.setdefault(problem.key, []).append(str(problem.error))
    return found


def guard_row(now: Status) -> dict[str, Any]:
    """Whether strangers are kept out."""
    guard, wanted = now.observed.guard, now.desired.guard
    amiss = list(troubles_of(now.todo).get(GUARD, ()))
    if wanted is None:
        state = "off: whoever reaches this host may send through its tunnels"
    elif guard.unavailable:
        state = str(guard.unavailable)
    elif guard.table is None:
        state = "missing" if amiss else "not needed: there is no tunnel to guard"
    elif amiss:
        state = "not as it has to be"
    else:
        state = "in place, and nobody else can change it" if guard.held else "in place"
    return {
        "wanted": wanted is not None,
        "in_place": wanted is not None and guard.table is not None and not amiss,
        "held": guard.held,
        "state": state,
        "troubles": amiss,
    }


def keys_of_tunnel(name: str, now: Status) -> list[Key]:
    """Every key that belongs to a tunnel: itself, its link and what replaces it, the sysctls and the address."""
    carried = [item for item in now.wanted.carried if item.tunnel.name == name]
    links = {item.link.name for item in carried} | {name}
    keys: list[Key] = [TunnelKey(name), *(LinkKey(link) for link in links)]
    keys += [item.port for item in carried if item.port]
    keys += [LinkKey(stand_in_name(link)) for link in links]
    keys += [sysctl.key for link, sysctl in now.wanted.sysctls if link in links]
    keys += [key for key in now.wanted.addresses if key.link in links]
    if now.desired.tunnels[name].encapsulation == "l2":
        keys += [sysctl.key for link, sysctl in now.wanted.sysctls if link in now.wanted.bare.silent_on]
    elif now.desired.tunnels[name].encapsulation == "dscp":
        keys.append(GUARD)
    return keys


def tunnel_rows(now: Status) -> Iterable[dict[str, Any]]:
    """A table row for each tunnel."""
    troubles = troubles_of(now.todo)
    carried = {item.tunnel.name: item.link for item in now.wanted.carried}
    for name, tunnel in now.desired.tunnels.items():
        link = carried.get(name)
        found = None if tunnel.bare else now.observed.links.get(link.name if link else name)
        local = link.outer.local if link and link.outer else _bare_local(tunnel, now)
        lacking = [text for key in keys_of_tunnel(name, now) for text in troubles.get(key, ())]
        yield {
            "name": name,
            "encapsulation": tunnel.encapsulation,
            "link": found.name if found else None,
            "local": str(local) if local else None,
            "key": tunnel.key,
            "checksum": tunnel.checksum,
            "port": tunnel.port,
            "vrf": tunnel.vrf or None,
            "load_balancers": [str(network) for network in tunnel.load_balancers] or "any",
            "state": _bare_state(tunnel, lacking, now.observed.guard) if tunnel.bare else _state(found),
            "troubles": lacking,
        }


def _bare_local(tunnel: Tunnel, now: Status) -> str | None:
    """Where packets arrive that no link decapsulates."""
    if tunnel.encapsulation == "l2":
        return tunnel.local.link if isinstance(tunnel.local, LocalOf) else "every segment"
    return ", ".join(sorted(map(str, now.wanted.bare.marked_at.get(tunnel.name, ())))) or None


def _bare_state(tunnel: Tunnel, lacking: list[str], guard: ObservedGuard) -> str:
    if lacking:
        return "not as it has to be"
    if tunnel.encapsulation == "dscp" and isinstance(guard.unavailable, NotPermitted):
        return "its rules cannot be seen: run with CAP_NET_ADMIN"
    return "in place" if tunnel.encapsulation == "dscp" else "needs no device"


def _state(link: Link | None) -> str:
    if link is None:
        return "missing"
    if not owns_link(link):
        return "missing (a link that is not ours has its name)"
    return "up" if link.up else "down"


def vip_row(key: AddressKey, now: Status, troubles: dict[Key, list[str]], listeners: Findings) -> dict[str, Any]:
    """A table row for one VIP."""
    vip = now.desired.vips[key]
    texts = troubles.get(key, [])
    there = key in now.observed.addresses
    held = vip.ip in now.desired.held
    state = "there" if there else "missing"
    return {
        "address": str(vip.ip),
        "name": vip.name,
        "device": vip.device,
        "vrf": vip.vrf or None,
        "present": there,
        "held": held,
        "state": "; ".join(texts) or (f"{state}; it is held" if held else state),
        "troubles": texts,
        "services": [_service_row(service, listeners.get(service)) for service in services_of(key, vip)],
    }


def _service_row(service: Service, found: ServiceFinding | None) -> dict[str, Any]:
    return {
        "service": service.name,
        "listening": found.listening if found else None,
        "doubtful": found.doubtful if found else False,
        "state": str(found) if found else "not known",
    }


def action_json(action: Action) -> dict[str, Any]:
    """A step."""
    return {"action": type(action).__name__, "key": str(action.key), "text": str(action), "why": action.why}


def problems_json(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """What cannot be had, and whose move it is."""
    return [
        {
            "key": str(problem.key),
            "move": problem.error.move,
            "problem": problem.error.problem,
            "remedy": problem.error.remedy,
        }
        for problem in problems
    ]
