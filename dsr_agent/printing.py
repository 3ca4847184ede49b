"""How plans, reports and states look on a terminal, and as JSON. Pure; no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dsr_agent.config import Loaded
from dsr_agent.reconcile.resolve import Wanted, stand_in_name
from dsr_agent.state.actions import Action, Plan, Problem
from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import Desired, Key, Link, LinkKey, Observed, TunnelKey
from dsr_agent.state.report import Outcome, Report, Result

# What a person reads on one screen; the rest is counted. JSON always has all of it.
_ON_A_SCREEN = 20


@dataclass(frozen=True, slots=True)
class Status:
    """What ``dsr-agent status`` is about: the file, the host, and the difference."""

    desired: Desired
    observed: Observed
    wanted: Wanted
    todo: Plan
    running: int | None


# --- check ----------------------------------------------------------------------------------------------------------


def checked(loaded: Loaded) -> str:
    """One line that the file is fine, after its warnings."""
    desired = loaded.desired
    warnings = [f"warning: {warning}" for warning in loaded.warnings]
    files = ", ".join(str(path) for path in loaded.files)
    fine = f"{files}: fine, {_count(desired.tunnels, 'tunnel')}, {_count(desired.vips, 'VIP')}"
    return "\n".join([*warnings, fine])


def checked_json(loaded: Loaded) -> dict[str, Any]:
    """The same for machines."""
    return {
        "ok": True,
        "files": [str(path) for path in loaded.files],
        "tunnels": len(loaded.desired.tunnels),
        "vips": len(loaded.desired.vips),
        "warnings": list(loaded.warnings),
    }


# --- plan, apply, teardown --------------------------------------------------------------------------------------------


def plan(todo: Plan) -> str:
    """The steps and why, then what cannot be had."""
    if not todo:
        return "in sync: nothing to do"
    lines = [f"{action}  ({action.why})" for action in todo.actions]
    return "\n".join([*_some(lines), *_some([f"cannot: {problem}" for problem in todo.problems])])


def plan_json(todo: Plan) -> dict[str, Any]:
    """The same for machines."""
    return {
        "in_sync": not todo,
        "actions": [_action_json(action) for action in todo.actions],
        "problems": _problems_json(todo.problems),
    }


def report(done: Report) -> str:
    """What was done, what was not, and whether the host is now as the file says."""
    lines = [outcomes(done.outcomes, "nothing to do")]
    lines += _some([f"cannot: {problem}" for problem in done.remaining.problems])
    lines.append("in sync" if done.in_sync else "not in sync")
    return "\n".join(lines)


def report_json(done: Report) -> dict[str, Any]:
    """The same for machines."""
    return {
        "in_sync": done.in_sync,
        "seconds": round(done.seconds, 6),
        "outcomes": [_outcome_json(outcome) for outcome in done.outcomes],
        "problems": _problems_json(done.problems),
    }


def outcomes(found: Sequence[Outcome], nothing: str) -> str:
    """One line for each step."""
    return "\n".join(_some([_outcome(outcome) for outcome in found])) or nothing


def outcomes_json(found: Iterable[Outcome], remaining: Plan) -> dict[str, Any]:
    """The same for machines."""
    return {"ok": not remaining, "outcomes": [_outcome_json(outcome) for outcome in found]}


# --- status -----------------------------------------------------------------------------------------------------------


def status(now: Status) -> str:
    """A line for each tunnel and VIP, with what is wrong with it."""
    state = "in sync" if not now.todo else "not in sync"
    agent = f"running (process {now.running})" if now.running else "not running"
    lines = [f"{state}; the agent is {agent}"]
    troubles = _troubles(now.todo)
    for row in _tunnel_rows(now):
        lines.append(f"tunnel {row['name']}: {row['encapsulation']} to {row['local'] or 'unknown'}, {row['state']}")
        lines += [f"  {text}" for text in row["troubles"]]
    vips = [_vip_row(key, now, troubles) for key in now.desired.vips]
    ill = [row for row in vips if row["troubles"]]
    shown = vips if len(vips) <= _ON_A_SCREEN else ill
    lines += _some([f"VIP {row['address']} on {row['device']}: {row['state']}" for row in shown])
    if len(vips) > _ON_A_SCREEN:
        lines.append(f"{len(vips) - len(ill)} of {len(vips)} VIPs are there")
    told = {key for name in now.desired.tunnels for key in _keys_of_tunnel(name, now)} | set(now.desired.vips)
    lines += _some([f"{key}: {text}" for key, texts in troubles.items() if key not in told for text in texts])
    return "\n".join(lines)


def status_json(now: Status) -> dict[str, Any]:
    """The same for machines."""
    troubles = _troubles(now.todo)
    return {
        "in_sync": not now.todo,
        "agent": {"running": now.running is not None, "pid": now.running},
        "tunnels": list(_tunnel_rows(now)),
        "vips": [_vip_row(key, now, troubles) for key in now.desired.vips],
        "actions": [_action_json(action) for action in now.todo.actions],
        "problems": _problems_json(now.todo.problems),
    }


def _troubles(todo: Plan) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for action in todo.actions:
        if not action.why.is_part:
            found.setdefault(action.key, []).append(f"{action} ({action.why})")
    for problem in todo.problems:
        found.setdefault(problem.key, []).append(str(problem.error))
    return found


def _keys_of_tunnel(name: str, now: Status) -> list[Key]:
    """Every key that belongs to a tunnel: itself, its link and what replaces it, the sysctls and the address."""
    carried = [item.link for item in now.wanted.carried if item.tunnel.name == name]
    links = {link.name for link in carried} | {name}
    keys: list[Key] = [TunnelKey(name), *(LinkKey(link) for link in links)]
    keys += [LinkKey(stand_in_name(link)) for link in links]
    keys += [sysctl.key for link, sysctl in now.wanted.sysctls if link in links]
    keys += [key for key in now.wanted.addresses if key.link in links]
    return keys


def _tunnel_rows(now: Status) -> Iterable[dict[str, Any]]:
    troubles = _troubles(now.todo)
    carried = {item.tunnel.name: item.link for item in now.wanted.carried}
    for name, tunnel in now.desired.tunnels.items():
        link = carried.get(name)
        found = now.observed.links.get(link.name if link else name)
        local = link.outer.local if link and link.outer else None
        yield {
            "name": name,
            "encapsulation": tunnel.encapsulation,
            "link": found.name if found else None,
            "local": str(local) if local else None,
            "key": tunnel.key,
            "checksum": tunnel.checksum,
            "load_balancers": [str(network) for network in tunnel.load_balancers] or "any",
            "state": _state(found),
            "troubles": [text for key in _keys_of_tunnel(name, now) for text in troubles.get(key, ())],
        }


def _state(link: Link | None) -> str:
    if link is None:
        return "missing"
    if not owns_link(link):
        return "missing (a link that is not ours has its name)"
    return "up" if link.up else "down"


def _vip_row(key: Any, now: Status, troubles: dict[Key, list[str]]) -> dict[str, Any]:
    vip = now.desired.vips[key]
    texts = troubles.get(key, [])
    there = key in now.observed.addresses
    return {
        "address": str(vip.ip),
        "name": vip.name,
        "device": vip.device,
        "present": there,
        "state": "; ".join(texts) if texts else ("there" if there else "missing"),
        "troubles": texts,
    }


# --- parts ------------------------------------------------------------------------------------------------------------


def _some(lines: list[str]) -> list[str]:
    """As many lines as fit a screen, and how many more there are."""
    if len(lines) <= _ON_A_SCREEN:
        return lines
    return [*lines[:_ON_A_SCREEN], f"... and {len(lines) - _ON_A_SCREEN} more (--json has all)"]


def _count(things: Any, noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _outcome(outcome: Outcome) -> str:
    if outcome.result is Result.DONE:
        return f"done     {outcome.action}"
    return f"{outcome.result:<8} {outcome.action}: {outcome.error}"


def _action_json(action: Action) -> dict[str, Any]:
    return {"action": type(action).__name__, "key": str(action.key), "text": str(action), "why": action.why}


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        **_action_json(outcome.action),
        "result": str(outcome.result),
        "error": str(outcome.error) if outcome.error else None,
    }


def _problems_json(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    return [
        {
            "key": str(problem.key),
            "move": problem.error.move,
            "problem": problem.error.problem,
            "remedy": problem.error.remedy,
        }
        for problem in problems
    ]
