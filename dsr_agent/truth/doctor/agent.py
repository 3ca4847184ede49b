"""The running agent: whether there is one, and what it knows that a single look does not show. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsr_agent.state.model import Vip
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told
from dsr_agent.truth.doctor.evidence import Evidence

_SHOWN = 5


def agent(evidence: Evidence) -> Iterator[Finding]:
    """Warnings about the host as a whole."""
    told, word = Told(Stage.AGENT), evidence.agent
    if word.pid is None:
        saw = "the agent does not run: what goes missing stays so"
        yield told.warning(Cause.AGENT_NOT_RUNNING, saw, "systemctl start dsr-agent")
    elif word.says is None and word.may_ask:
        saw = f"the agent (process {word.pid}) does not answer"
        yield told.warning(Cause.AGENT_STUCK, saw, "systemctl restart dsr-agent")
    if word.says:
        yield from _says(word.says)


def _says(says: Mapping[str, Any]) -> Iterator[Finding]:
    told = Told(Stage.AGENT)
    reload = says.get("reload", {})
    if not reload.get("successful", True):
        saw = "the file was refused when it was last read; the agent goes on with the one before"
        yield told.warning(Cause.FILE_REFUSED, saw, "dsr-agent check", *reload.get("refusals", ())[:_SHOWN])
    if fights := says.get("fights"):
        what = [f"{key}: {times} times within a minute" for key, times in fights.items()]
        saw = f"somebody keeps undoing {next(iter(fights))}"
        yield told.warning(
            Cause.FIGHT, saw, "journalctl -u dsr-agent names who, where the kernel tells", *what[:_SHOWN]
        )


def drained(vip: Vip, evidence: Evidence) -> Iterator[Finding]:
    """Whether the load balancer is told to send nobody new to *vip*."""
    says = (evidence.agent.says or {}).get("drained") or {}
    if says.get("host") or any(row["vip"] == str(vip.ip) for row in says.get("vips", ())):
        saw = "it is drained: load balancers that ask are told to send nobody new"
        yield Told(Stage.AGENT, vip=vip.ip).warning(Cause.DRAINED, saw, f"dsr-agent undrain {vip.ip}")
