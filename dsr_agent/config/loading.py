"""From the file, its drop-ins and the environment to settings and what they mean: or to every refusal at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import InitSettingsSource

from dsr_agent.config import files, refusals, values
from dsr_agent.config.agreement import Refusal, disagreements, same_doors
from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.checks import exposed, wrong_checks
from dsr_agent.config.desired import desired
from dsr_agent.config.doubts import doubts
from dsr_agent.config.environment import Environment, variable
from dsr_agent.config.files import File
from dsr_agent.config.origins import Origins
from dsr_agent.config.settings import Settings, TunnelSettings, VipSettings
from dsr_agent.config.wording import KeyPath
from dsr_agent.state.errors import ConfigError
from dsr_agent.state.model import Desired

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, what they mean, the files they came from, and what in them is legal but suspicious."""

    settings: Settings
    desired: Desired
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class _Merged:
    """All files as one table; *lists* says which file each entry of a list came from, and its index there."""

    data: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list[tuple[File, int]]] = field(default_factory=dict)
    wrong: list[tuple[File, KeyPath, str]] = field(default_factory=list)


def load(path: Path, *, environ: Mapping[str, str]) -> Loaded:
    """
    The file at *path*, the drop-ins beside it (``X.d/*.toml`` for ``X.toml``), and ``DSR_AGENT_*`` of *environ*.

    Drop-ins add tunnels, VIPs and checks. The environment goes above the files; a list there replaces that of the
    files.
    ``DSR_AGENT_CONFIG`` is left to the caller. The same files and environment always give the same answer.

    :raises ConfigError: with one line for each refusal of all sources, in reading order
    """
    read, unread = _read(path)
    environment = Environment(Settings, environ)
    merged = _merge(read)
    given = environment()
    origins = Origins(read, environment, given, merged.lists)
    refused: list[Refusal] = [(origins.place_in(file, at), text) for file, at, text in merged.wrong]
    settings = None
    try:
        settings = Settings(_build_sources=((environment, InitSettingsSource(Settings, merged.data)), {}))
    except ValidationError as error:
        told = refusals.translate(error.errors(include_url=False), json=_whole(environment, given))
        refused += [(origins.place(at), text) for at, text in told]
    # From here on entries are held against each other: those that can be read, whatever the others are like.
    raw = {**merged.data, **given}
    tunnels = settings.tunnel if settings else _readable(TunnelSettings, raw.get("tunnel"))
    vips = settings.vip if settings else _readable(VipSettings, raw.get("vip"))
    checks = settings.check if settings else _readable(CheckSettings, raw.get("check"))
    names = None if unread or merged.wrong else _names(tunnels, raw)
    refused += disagreements(tunnels, vips, origins.place, names)
    if settings:
        refused += same_doors(settings.http.listen, settings.agent_check.listen, origins.place)
    refused += wrong_checks(checks, vips, origins.place, complete=not unread and not merged.wrong)
    lines = [*unread, *environment.refusals, *(f"{place}: {text}" for place, text in sorted(refused, key=_order))]
    if lines or settings is None:
        raise ConfigError(tuple(lines))
    warnings = (*_replaced(given, merged), *doubts(settings, origins), *exposed(settings, origins))
    return Loaded(settings, desired(settings), tuple(file.path for file in read), warnings)


def netns_of(path: Path, *, environ: Mapping[str, str]) -> str | None:
    """The network namespace that a file names which cannot be used otherwise, as far as it can be read at all."""
    said: object = environ.get(variable("agent", "netns"))
    if said is None:
        with suppress(ConfigError, KeyError, TypeError):
            said = files.read(path).data["agent"]["netns"]
    try:
        return values.netns(said)
    except ValueError:
        return None


def _order(refusal: Refusal) -> Any:
    return refusal[0]


def _read(path: Path) -> tuple[list[File], list[str]]:
    """All files that can be read, the main one first (empty where it cannot), and why the others cannot."""
    found: list[File] = []
    unread: list[str] = []
    try:
        found.append(files.read(path))
    except ConfigError as error:
        unread += error.refusals
        found.append(File(path, "", {}))
    try:
        beside = files.drop_ins(path)
    except ConfigError as error:
        unread += error.refusals
        beside = []
    for drop_in in beside:
        try:
            found.append(files.read(drop_in, drop_in=True))
        except ConfigError as error:
            unread += error.refusals
    return found, unread


def _merge(read: list[File]) -> _Merged:
    merged = _Merged()
    for file in read:
        for section, value in file.data.items():
            if section not in refusals.KEYS:
                merged.wrong.append((file, (section,), refusals.unknown_section(section, value)))
            elif section in refusals.LISTS:
                if not isinstance(value, list):
                    merged.wrong.append((file, (section,), refusals.wrong_shape(section, value)))
                    continue
                merged.data.setdefault(section, []).extend(value)
                merged.lists.setdefault(section, []).extend((file, index) for index in range(len(value)))
            elif file.drop_in:
                only = f"a drop-in may only add [[tunnel]], [[vip]] and [[check]]: write [{section}] in {read[0]}"
                merged.wrong.append((file, (section,), only))
            elif not isinstance(value, dict):
                merged.wrong.append((file, (section,), refusals.wrong_shape(section, value)))
            else:
                merged.data[section] = value
    return merged


def _whole(environment: Environment, given: Mapping[str, Any]) -> frozenset[str]:
    """The sections that one variable of the environment gave as a whole."""
    return frozenset(section for section in given if variable(section) in environment.environ)


def _readable(model: type[Model], entries: object) -> list[Model | None]:
    found: list[Model | None] = []
    for entry in entries if isinstance(entries, list) else ():
        try:
            found.append(model.model_validate(entry))
        except ValidationError:
            found.append(None)
    return found


def _names(tunnels: Sequence[TunnelSettings | None], raw: Mapping[str, Any]) -> Set[str] | None:
    """The names of all tunnels, also of those refused for another reason; `None` where one cannot be known."""
    names: set[str] = set()
    for index, tunnel in enumerate(tunnels):
        entry = raw["tunnel"][index] if tunnel is None else {"name": tunnel.name}
        if not isinstance(entry, dict):
            return None
        name, encapsulation = entry.get("name"), entry.get("encapsulation")
        if isinstance(name, str):
            names.add(name)
        elif name is None and encapsulation in values.ENCAPSULATIONS:
            names |= {f"dsr-{encapsulation}", f"dsr-{encapsulation}6"}  # which one goes by what may be wrong
        else:
            return None
    return names


def _replaced(given: Mapping[str, Any], merged: _Merged) -> list[str]:
    return [
        f"environment {variable(section)}: replaces the {refusals.heading(section)} of all files "
        f"({len(merged.data[section])})"
        for section in refusals.LISTS
        if section in given and merged.data.get(section)
    ]
