"""Writing configurations into a directory, and what is said about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from dsr_agent.config import Loaded, load
from dsr_agent.state.errors import ConfigError

TUNNEL = '[[tunnel]]\nencapsulation = "ipip"\nload_balancers = ["10.1.0.5"]\n'
VIP = '[[vip]]\naddress = "192.0.2.10"\n'
MAIN = "dsr-agent.toml"
# How the validation library speaks, and Python.
JARGON = re.compile(
    r"[Pp]ydantic|[Ii]nput should|[Vv]alue.error|errors\.|input_value|[Ff]ield required|[Ee]xtra inputs"
    r"|[Dd]efault.factory|<class|object at 0x|\bNone\b|NoneType|\bdict\b|\btuple\b|\bstr\b|[Ii]nstance of"
    r"|_type\b|Error\b"
)


def write(directory: Path, text: str, files: Mapping[str, str] | None = None) -> Path:
    """Write *text* as the main file, and drop-ins like ``{"dsr-agent.d/a.toml": "..."}``; the path of the main one."""
    for name, content in {MAIN: text, **(files or {})}.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
    return directory / MAIN


def loaded(directory: Path, text: str, files: Mapping[str, str] | None = None, **environ: str) -> Loaded:
    """What the files and *environ* come to."""
    return load(write(directory, text, files), environ=environ)


def refusals(path: Path, **environ: str) -> list[str]:
    """What is said about *path* and its drop-ins, its directory left away; they must not load."""
    with pytest.raises(ConfigError) as raised:
        load(path, environ=environ)
    said = raised.value.refusals
    assert all("\n" not in refusal for refusal in said), "a refusal is one line"
    return [refusal.replace(f"{path.parent}/", "") for refusal in said]


def refused(directory: Path, text: str, files: Mapping[str, str] | None = None, **environ: str) -> list[str]:
    """What is said about the files and *environ*; they must not load."""
    return refusals(write(directory, text, files), **environ)
