"""What the validation library found wrong, in the words of the file. None of the library's own words get out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.check_values import PROTOCOLS
from dsr_agent.config.settings import (
    AgentCheckSettings,
    AgentSettings,
    GuardSettings,
    HttpSettings,
    ListenersSettings,
    ProbeSettings,
    TunnelSettings,
    VipSettings,
)
from dsr_agent.config.wording import KeyPath, Refused, closest, quoted, show

KEYS: Mapping[str, tuple[str, ...]] = {
    "agent": tuple(AgentSettings.model_fields),
    "http": tuple(HttpSettings.model_fields),
    "agent_check": tuple(AgentCheckSettings.model_fields),
    "guard": tuple(GuardSettings.model_fields),
    "listeners": tuple(ListenersSettings.model_fields),
    "probe": tuple(ProbeSettings.model_fields),
    "tunnel": tuple(TunnelSettings.model_fields),
    "vip": tuple(VipSettings.model_fields),
    "check": tuple(CheckSettings.model_fields),
}
LISTS = ("tunnel", "vip", "check")
_MISSING = {
    ("tunnel", "encapsulation"): 'write encapsulation = "ipip", "gre", "gue", "fou", "dscp" or "l2"',
    ("tunnel", "load_balancers"): (
        'write load_balancers = ["10.1.0.5"] with the addresses they send from, or load_balancers = "any"'
    ),
    ("vip", "address"): 'write address = "192.0.2.10"',
    ("check", "protocol"): f"write protocol = {quoted(PROTOCOLS)}",
}
_EXAMPLE = {
    "agent": '{"log_level": "debug"}',
    "http": '{"listen": ["127.0.0.1:9177"]}',
    "agent_check": '{"listen": ["0.0.0.0:8190"]}',
    "guard": '{"required": true}',
    "listeners": '{"fall": 2}',
    "probe": '{"rate": 20}',
    "tunnel": '[{"encapsulation": "ipip", "load_balancers": ["10.1.0.5"]}]',
    "vip": '[{"address": "192.0.2.10"}]',
    "check": '[{"protocol": "tacacs"}]',
}
_BELOW = {"tunnel": 'encapsulation = "ipip"', "vip": 'address = "192.0.2.10"', "check": 'protocol = "tacacs"'}


def heading(section: str) -> str:
    """``[agent]`` or ``[[vip]]``."""
    return f"[[{section}]]" if section in LISTS else f"[{section}]"


def translate(errors: Iterable[ErrorDetails], *, json: frozenset[str] = frozenset()) -> list[tuple[KeyPath, str]]:
    """
    What is wrong, and where in the merged settings. *json* are the sections that the environment gave as a whole.

    A key that is missing only because it is misspelt is refused once, as misspelt.
    """
    found = list(errors)
    misspelt: set[KeyPath] = set()
    for error in found:
        if error["type"] == "extra_forbidden":
            *table, key = error["loc"]
            misspelt.add((*table, closest(str(key), KEYS[str(table[0])])))
    told: list[tuple[KeyPath, str]] = []
    for error in found:
        if error["type"] == "missing" and error["loc"] in misspelt:
            continue
        text = _text(error, str(error["loc"][0]) in json)
        if text:
            told.append((error["loc"], text))
    return told


def _text(error: ErrorDetails, from_json: bool) -> str:
    path, kind, value = error["loc"], error["type"], error["input"]
    section = str(path[0])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Refused):
        return str(cause)
    if kind == "default_factory_not_called":  # a consequence of another error
        return ""
    if kind == "missing":
        return f"is missing: {_MISSING.get((section, str(path[-1])), 'write it')}"
    if kind == "extra_forbidden":
        return unknown_key(section, str(path[-1]))
    if len(path) == 1 or (len(path) == 2 and isinstance(path[1], int)):
        return wrong_shape(section, value, from_json=from_json)
    return f"found {show(value)}: this key cannot be that, see the comments in the example file"


def unknown_key(section: str, key: str) -> str:
    """What to do about a *key* that *section* does not have."""
    known = KEYS[section]
    near = closest(key, known)
    homes = [heading(other) for other, keys in KEYS.items() if key in keys]
    if homes and not near:
        return f"unknown key here: it belongs in {' or '.join(homes)}, and {heading(section)} has {quoted(known)}"
    return "unknown key: " + (f'did you mean "{near}"?' if near else f"{heading(section)} has {quoted(known)}")


def unknown_section(key: str, value: object) -> str:
    """What to do about a *key* that stands outside of all sections and is none."""
    table = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict) for entry in value))
    homes = [heading(section) for section, keys in KEYS.items() if key in keys and not table]
    if homes:
        return f"outside of its table: it belongs in {' or '.join(homes)}"
    near = closest(key, KEYS)
    if near:
        return f"unknown table: did you mean {heading(near)}?"
    return f"unknown: a file has {', '.join(heading(section) for section in KEYS)}"


def wrong_shape(section: str, value: object, *, from_json: bool = False) -> str:
    """What to write instead of a *section* that is something else than its table, or tables."""
    if from_json:
        found = "something else" if section == "check" else show(value)  # there may be a secret in it
        return f"found {found}: write JSON, e.g. {_EXAMPLE[section]}"
    if section not in LISTS:
        several = isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
        return f"found {f'[[{section}]]' if several else show(value)}: write [{section}], with its keys below it"
    if isinstance(value, dict):
        return f"found [{section}]: write [[{section}]], with two brackets, above each of them"
    example = f'address = "{value}"' if section == "vip" and _short_text(value) else _BELOW[section]
    return f"found {show(value)}: write [[{section}]] and below it {example}"


def _short_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 60 and value.isprintable() and '"' not in value
