"""How plans, reports and states look on a terminal, and as JSON. Pure; no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dsr_agent.config import Loaded
from dsr_agent.service.selftest import Trial
from dsr_agent.service.span_keeper import DRAIN, HOLD, SpanKind, moment
from dsr_agent.service.status import (
    Findings,
    Status,
    action_json,
    as_json,
    guard_row,
    keys_of_tunnel,
    problems_json,
    troubles_of,
    tunnel_rows,
    vip_row,
)
from dsr_agent.state.actions import Plan
from dsr_agent.state.model import GUARD
from dsr_agent.state.probe import Seen
from dsr_agent.state.report import Outcome, Report, Result
from dsr_agent.truth.findings import said, suspect

# What a person reads on one screen; the rest is counted. JSON always has all of it.
_ON_A_SCREEN = 20
_NOTHING: Mapping[str, Any] = {"vips": []}


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


def plan(todo: Plan, holds: Mapping[str, Any] | None = None) -> str:
    """The steps and why, what cannot be had, what to know, and what is left alone because somebody holds it."""
    lines = _some([f"{action}  ({action.why})" for action in todo.actions])
    lines += _some([f"cannot: {problem}" for problem in todo.problems])
    warnings = _some([f"warning: {warning}" for warning in todo.warnings])
    return "\n".join([*(lines or ["in sync: nothing to do"]), *warnings, *held(holds)])


def plan_json(todo: Plan, holds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same for machines."""
    return {
        "held": (holds or _NOTHING)["vips"],
        "in_sync": not todo,
        "actions": [action_json(action) for action in todo.actions],
        "problems": problems_json(todo.problems),
        "warnings": problems_json(todo.warnings),
    }


def report(done: Report, holds: Mapping[str, Any] | None = None) -> str:
    """What was done, what was not, and whether the host is now as the file says."""
    lines = [outcomes(done.outcomes, "nothing to do")]
    lines += _some([f"cannot: {problem}" for problem in done.remaining.problems])
    lines.append("in sync" if done.in_sync else "not in sync")
    return "\n".join([*lines, *held(holds)])


def report_json(done: Report, holds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same for machines."""
    return {
        "held": (holds or _NOTHING)["vips"],
        "in_sync": done.in_sync,
        "seconds": round(done.seconds, 6),
        "outcomes": [_outcome_json(outcome) for outcome in done.outcomes],
        "problems": problems_json(done.problems),
    }


def outcomes(found: Sequence[Outcome], nothing: str) -> str:
    """One line for each step."""
    return "\n".join(_some([_outcome(outcome) for outcome in found])) or nothing


def torn_down(found: Sequence[Outcome], remaining: Plan) -> str:
    """What was removed, and what cannot be."""
    lines = [] if remaining.problems and not found else [outcomes(found, "nothing here is marked ours")]
    return "\n".join([*lines, *_some([f"cannot: {problem}" for problem in remaining.problems])])


def torn_down_json(found: Iterable[Outcome], remaining: Plan) -> dict[str, Any]:
    """The same for machines."""
    return {
        "ok": not remaining,
        "outcomes": [_outcome_json(outcome) for outcome in found],
        "problems": problems_json(remaining.problems),
    }


# --- status -----------------------------------------------------------------------------------------------------------


def status(
    now: Status,
    says: Mapping[str, Any] | None = None,
    listeners: Findings | None = None,
    holds: Mapping[str, Any] | None = None,
) -> str:
    """A line for each tunnel and VIP, with what is wrong with it; *says* is what the running agent adds."""
    state = "in sync" if not now.todo else "not in sync"
    agent = f"running (process {now.running})" if now.running else "not running"
    lines = [f"{state}; the agent is {agent}"]
    if now.running and says is None:
        lines.append("agent: it does not answer (yet), so this is only what can be seen of the host")
    lines += _said(says) + held(holds)
    troubles = troubles_of(now.todo)
    guard = guard_row(now)
    if now.desired.tunnels:
        lines.append(f"guard: {guard['state']}")
    lines += [f"  {text}" for text in guard["troubles"]]
    for row in tunnel_rows(now):
        plain = row["encapsulation"] == "l2"
        open_ = ", open to anybody" if row["load_balancers"] == "any" and not plain else ""
        where = f"{row['encapsulation']} {'on' if plain else 'to'} {row['local'] or 'unknown'}"
        where += f" in VRF {row['vrf']}" if row["vrf"] else ""
        lines.append(f"tunnel {row['name']}: {where}, {row['state']}{open_}")
        lines += [f"  {text}" for text in row["troubles"]]
    lines += _vips([vip_row(key, now, troubles, listeners or {}) for key in now.desired.vips])
    told = {key for name in now.desired.tunnels for key in keys_of_tunnel(name, now)} | {*now.desired.vips, GUARD}
    lines += _some([f"{key}: {text}" for key, texts in troubles.items() if key not in told for text in texts])
    lines += _some([f"warning: {warning}" for warning in now.todo.warnings if warning.key != GUARD])
    return "\n".join(lines)


def _vips(rows: list[dict[str, Any]]) -> list[str]:
    """All of a few VIPs; of many, those that lack something."""
    few = len(rows) <= _ON_A_SCREEN
    lines = []
    for row in rows:
        services = [each for each in row["services"] if few or not each["listening"] or each["doubtful"]]
        if few or row["troubles"] or services:
            lines.append(f"VIP {row['address']} on {row['device']}: {row['state']}")
            lines += [f"  {each['service']}: {each['state']}" for each in services]
    if few:
        return lines
    there = sum(row["present"] and not row["troubles"] for row in rows)
    return [*_some(lines), f"{there} of {len(rows)} VIPs are there"]


def status_json(
    now: Status,
    says: Mapping[str, Any] | None = None,
    listeners: Findings | None = None,
    holds: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The same for machines."""
    found = as_json(now, listeners or {})
    found["agent"] |= {"held": holds or _NOTHING, **(says or {})}
    return found


def unusable(running: int | None, says: Mapping[str, Any] | None) -> str:
    """What goes on while the file cannot be used; *says* is what the running agent says of itself."""
    if running is None:
        return "the file cannot be used; the agent is not running"
    agent = f"the file cannot be used; the agent (process {running})"
    if says is None:
        return f"{agent} cannot be asked"
    undone = [f"  {key}: {text}" for key, texts in says["undone"].items() for text in texts]
    when = moment(says["reload"]["succeeded_at"])
    state = "not in sync" if undone else "in sync"
    return "\n".join([f"{agent} goes on with what it read at {when}: {state}", *_some(undone)])


def unusable_json(refusals: Sequence[str], running: int | None, says: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same for machines."""
    agent = {"running": running is not None, "pid": running, **(says or {})}
    return {"ok": False, "refusals": list(refusals), "agent": agent}


def _said(says: Mapping[str, Any] | None) -> list[str]:
    """What the agent says of itself, where it is worth a line."""
    if not says:
        return []
    reload = says.get("reload", {})
    lines = []
    if not reload.get("successful", True):
        tried = moment(reload["tried_at"])
        lines = [f"the file could not be used when it was read at {tried}; the agent goes on as before:"]
        lines += _some([f"  {refusal}" for refusal in reload["refusals"]])
    lines += [f"another firewall drops what the guard lets in: {drop}" for drop in says.get("foreign_drops", ())]
    lines += _self_test(says.get("self_test"))
    for key, times in says.get("fights", {}).items():
        lines.append(f"somebody keeps undoing {key}: {times} times within a minute")
    lines += _checks(says.get("checks", ()))
    return lines + (drained(says["drained"]) if "drained" in says else [])


def _checks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All of a few checks; of many, those that are not fine."""
    shown = [row for row in rows if len(rows) <= _ON_A_SCREEN or row["up"] is not True or not row["asked"]]
    return _some([f"VIP {row['vip']}: {row['check']} check: {_check(row)}" for row in shown])


def _check(row: Mapping[str, Any]) -> str:
    took = "" if row["seconds"] is None else f" in {row['seconds'] * 1000:.0f} ms"
    return f"{row['state']}{took if row['up'] and row['asked'] else ''}"


# --- drain and hold ---------------------------------------------------------------------------------------------------


def held(found: Mapping[str, Any] | None) -> list[str]:
    """What is held, and until when."""
    return _some([f"VIP {row['vip']} is held {_until(row, HOLD)}{_gone(row)}" for row in (found or _NOTHING)["vips"]])


def drained(found: Mapping[str, Any]) -> list[str]:
    """What is drained, until when, and what still arrives; *found* is what the agent says of it."""
    lines = [f"all VIPs are drained {_until(found['host'], DRAIN)}"] if found["host"] else []
    lines += [
        f"VIP {row['vip']} is drained {_until(row, DRAIN)}{_gone(row)}{_arriving(row['arriving'])}"
        for row in found["vips"]
    ]
    return _some(lines)


def _until(span: Mapping[str, Any], asked: SpanKind) -> str:
    return f"until somebody {asked.ends}" if span["until"] is None else f"until {moment(span['until'])}"


def _gone(row: Mapping[str, Any]) -> str:
    return "" if row["declared"] else "; it is not in the file"


def _arriving(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["last_at"] is None:
        return f"; quiet: no packet since {moment(found['since'])}"
    packets = f"{found['packets']} packet{'s' * (found['packets'] != 1)} since {moment(found['since'])}"
    return f"; {packets}, the last at {moment(found['last_at'])}"


def _self_test(says: Mapping[str, Any] | None) -> list[str]:
    """How the running agent's self-test goes."""
    if not says:
        return []
    if says["off"]:
        return [f"no self-test: {says['off']}"]
    fallen = [f"  VIP {vip} by {name}: {why}" for vip, whys in says["fallen"].items() for name, why in whys.items()]
    silent = f"; of others it says nothing: {says['silent']}" if says["silent"] else ""
    return [f"self-test: {says['arriving']} of {says['pairs']} arrive{silent}", *_some(fallen)]


# --- probe ------------------------------------------------------------------------------------------------------------


_NOTHING_TO_TEST = "nothing to test: what comes over l2 is a packet like any other"


def probed(found: Trial) -> str:
    """A line for each VIP and tunnel; of very many, those that did not get through."""
    lines = [f"{pair}: {said(sight)}" for pair, sight in found.sights.items()]
    if len(lines) > _ON_A_SCREEN:
        lines = [f"{pair}: {said(sight)}" for pair, sight in found.sights.items() if sight.what is not Seen.ARRIVED]
    untried = [f"VIP {ip} by {tunnel}: not tried: {why}" for ip, tunnel, why in found.untried]
    untried += [f"{pair}: {_NOTHING_TO_TEST}" for pair in found.plain]
    arrived = sum(sight.what is Seen.ARRIVED for sight in found.sights.values())
    return "\n".join([*_some([*lines, *untried]), f"{arrived} of {found.count} arrived"])


def probed_json(found: Trial) -> dict[str, Any]:
    """The same for machines."""
    rows = [
        {
            "vip": str(pair.vip),
            "tunnel": pair.tunnel,
            "result": str(sight.what),
            "link": sight.came or None,
            "seconds": round(sight.seconds, 6) if sight.what is Seen.ARRIVED else None,
            "suspect": suspect(sight),
            "text": said(sight),
        }
        for pair, sight in found.sights.items()
    ]
    rows += [
        {
            "vip": str(ip),
            "tunnel": tunnel,
            "result": str(Seen.NO_TUNNEL),
            "link": None,
            "seconds": None,
            "suspect": "tunnel",
            "text": why,
        }
        for ip, tunnel, why in found.untried
    ]
    rows += [
        {
            "vip": str(pair.vip),
            "tunnel": pair.tunnel,
            "result": "nothing_to_test",
            "link": None,
            "seconds": None,
            "suspect": None,
            "text": _NOTHING_TO_TEST,
        }
        for pair in found.plain
    ]
    return {"ok": found.fine, "results": rows}


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


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        **action_json(outcome.action),
        "result": str(outcome.result),
        "error": str(outcome.error) if outcome.error else None,
    }
