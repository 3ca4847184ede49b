"""The environment as a source of settings. The files are the other one, below it: see `loading`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from dsr_agent.config.settings import (
    ENV_DELIMITER,
    ENV_PREFIX,
    AgentCheckSettings,
    AgentSettings,
    GuardSettings,
    HttpSettings,
    ListenersSettings,
    ProbeSettings,
    Settings,
)
from dsr_agent.config.wording import KeyPath, closest, printable, quoted

FILE_VARIABLE = ENV_PREFIX + "CONFIG"  # names the file itself: read by the command line, before us

# What Kubernetes puts into every container beside a service called dsr-agent, or dsr-agent-metrics, and nobody wrote.
_LINK_TO_SERVICE = re.compile(
    ENV_PREFIX
    + r"(?:[A-Z0-9]+_)*(?:"
    + "|".join(
        (
            r"SERVICE_HOST=.*",
            r"SERVICE_PORT(?:_[A-Z0-9_]+)?=\d+",
            r"PORT(?:_\d+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://.*",
            r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)=.*",
        )
    )
    + ")"
)


def variable(*path: str) -> str:
    """The environment variable that sets the key *path*."""
    return ENV_PREFIX + ENV_DELIMITER.join(path).upper()


VARIABLES: Mapping[str, KeyPath] = {
    variable(*path): path
    for path in (
        *((section,) for section in Settings.model_fields),
        *(("agent", key) for key in AgentSettings.model_fields),
        *(("http", key) for key in HttpSettings.model_fields),
        *(("agent_check", key) for key in AgentCheckSettings.model_fields),
        *(("guard", key) for key in GuardSettings.model_fields),
        *(("listeners", key) for key in ListenersSettings.model_fields),
        *(("probe", key) for key in ProbeSettings.model_fields),
    )
}


class Environment(EnvSettingsSource):
    """
    The ``DSR_AGENT_*`` variables of *environ*; names and texts that cannot stand are in `refusals`, not in the result.
    """

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self.refusals: list[str] = []
        self.environ: dict[str, str] = {}
        for name, text in sorted(environ.items()):
            if not name.startswith(ENV_PREFIX) or name == FILE_VARIABLE:
                continue
            if not _LINK_TO_SERVICE.fullmatch(f"{name}={text}"):
                self._vet(name, text)
        super().__init__(settings_cls)

    def _vet(self, name: str, text: str) -> None:
        if name not in VARIABLES:
            near = closest(name, VARIABLES) if name.upper() not in VARIABLES else name.upper()
            instead = f"did you mean {near}?" if near else f"there are {quoted(VARIABLES)}"
            self.refusals.append(f"environment {printable(name[:200])}: unknown variable: {instead}")
            return
        try:
            json.loads(text)
        except json.JSONDecodeError:
            pass  # plain text, or a list or table that is refused in its place
        except (ValueError, RecursionError):
            self.refusals.append(f"environment {name}: holds a number too long or is nested too deeply")
            return
        self.environ[name] = text

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # The process's own environment is not looked at: what counts is what the caller gave.
        return {name.lower(): text for name, text in self.environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Text that is no JSON stays text, so that it is refused where it stands and with all the others."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value

    def variable_for(self, path: KeyPath, data: Mapping[str, Any]) -> str:
        """The variable that *path* was read from, given what this source came to (*data*); empty if none."""
        section, key = str(path[0]), str(path[1]) if len(path) > 1 else ""
        if section not in data:
            return ""
        if section in ("tunnel", "vip", "check") or not isinstance(data[section], dict) or not key:
            return variable(section)
        if key not in data[section]:
            return ""
        single = variable(section, key)
        return single if single in self.environ else variable(section)
