"""The packet's story for each VIP, stage by stage, and what causes it not to end well. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dsr_agent.state.model import Ip, Tunnel, Vip
from dsr_agent.state.probe import Sight
from dsr_agent.truth.doctor import (
    agent,
    application,
    arriving,
    bare,
    filters,
    mtu,
    reverse_path,
    tunnel,
    vip,
    way_back,
)
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, StageResult, skipped
from dsr_agent.truth.doctor.evidence import Evidence

_OF_TUNNELS: tuple[Callable[[Tunnel, Evidence], Iterator[Finding]], ...] = (
    arriving.arriving,
    tunnel.module,
    tunnel.link,
    tunnel.local,
    filters.guard,
    filters.card,
    reverse_path.reverse_path,
    mtu.mtu,
)
_OF_BARE: tuple[Callable[[Tunnel, Evidence], Iterator[Finding]], ...] = (bare.rules, bare.local)

# A fault at the first is why there is nothing to be said of the others.
_FOLLOWS: Mapping[Stage, frozenset[Stage]] = {
    Stage.MODULE: frozenset({Stage.TUNNEL, Stage.FIREWALL, Stage.REVERSE_PATH}),
    Stage.LOCAL: frozenset({Stage.TUNNEL, Stage.FIREWALL, Stage.REVERSE_PATH}),
    Stage.TUNNEL: frozenset({Stage.FIREWALL, Stage.REVERSE_PATH}),
    Stage.REVERSE_PATH: frozenset({Stage.FIREWALL}),
    Stage.VIP: frozenset({Stage.FIREWALL, Stage.LISTENER, Stage.ANSWER, Stage.WAY_BACK}),
}
# And of these, whatever their stage is.
_FOLLOWS_CAUSE: Mapping[Cause, frozenset[Stage]] = {
    Cause.NO_CLIENT_ROUTE: frozenset({Stage.WAY_BACK}),
    Cause.WAY_BACK_VRF: frozenset({Stage.FIREWALL, Stage.REVERSE_PATH}),
    # The filter looks for the way back, too.
    Cause.WAY_BACK_RULE: frozenset({Stage.REVERSE_PATH}),
    Cause.WAY_BACK_MISSING: frozenset({Stage.REVERSE_PATH}),
    Cause.GUARD_UNAVAILABLE: frozenset({Stage.TUNNEL, Stage.FIREWALL, Stage.REVERSE_PATH}),
}

_ORDER = {stage: place for place, stage in enumerate(Stage)}
_RANK = {cause: place for place, cause in enumerate(Cause)}


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says: each VIP's stages in the packet's order, and the *causes*, the likeliest root first."""

    vips: Mapping[Ip, tuple[Finding, ...]]
    causes: tuple[Finding, ...]
    tried: int = 0
    """How many VIPs the self-test was sent to."""

    @property
    def fine(self) -> bool:
        """Whether there is no fault."""
        return not any(cause.result is StageResult.FAULT for cause in self.causes)


def diagnose(evidence: Evidence) -> Diagnosis:
    """Walk the packet's way for every VIP that *evidence* is about."""
    sights: dict[Ip, dict[str, Sight]] = {}
    for pair, sight in evidence.sights.items():
        sights.setdefault(pair.vip, {})[pair.tunnel] = sight
    by_tunnel = {each.name: _without_consequences(_of_tunnel(each, evidence)) for each in evidence.tunnels}
    vips = {each.ip: tuple(_of_vip(each, by_tunnel, sights.get(each.ip, {}), evidence)) for each in evidence.vips}
    host = tuple(agent.agent(evidence))
    causes = dict.fromkeys(
        finding for finding in (*host, *(found for stages in vips.values() for found in stages)) if finding.bad
    )
    return Diagnosis(vips, tuple(sorted(causes, key=_rank)), len(sights))


def _rank(finding: Finding) -> tuple[bool, int]:
    assert finding.cause is not None
    return finding.result is not StageResult.FAULT, _RANK[finding.cause]


def _of_tunnel(each: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    for look in _OF_BARE if each.bare else _OF_TUNNELS:
        yield from look(each, evidence)


def _of_vip(
    each: Vip, by_tunnel: Mapping[str, list[Finding]], sights: dict[str, Sight], evidence: Evidence
) -> Iterator[Finding]:
    """All stages of one VIP, in order; what its tunnels have in common with other VIPs was looked at once."""
    names = [name for name in each.tunnels if name in by_tunnel]
    found = [finding for name in names for finding in by_tunnel[name] if _concerns(finding, each)]
    found += vip.vip(each, sights, evidence)
    for name in names:
        way_in = evidence.desired.tunnels[name]
        about = way_in, each.ip, sights.get(name), evidence
        if way_in.bare:
            found += bare.arriving(way_in, each, evidence)
        if way_in.encapsulation != "l2":  # of which there is nothing to test
            found += filters.firewall(*about)
        if not way_in.bare and not any(known.blocks and known.stage is Stage.REVERSE_PATH for known in by_tunnel[name]):
            found += reverse_path.tested(*about)
    found += application.listener(each, evidence)
    found += application.answer(each, evidence)
    found += way_back.way_back(each, evidence)
    found = _once_told(_without_consequences(found))
    if not any(finding.blocks for finding in found):
        found += application.unexplained(each, evidence)
    found += agent.drained(each, evidence)
    yield from sorted(found, key=lambda finding: _ORDER[finding.stage])


def _once_told(found: list[Finding]) -> list[Finding]:
    """Without a stage's "unknown" and the like where a fault or warning was found there."""
    bad = {(finding.stage, finding.tunnel) for finding in found if finding.bad}
    return [finding for finding in found if finding.bad or (finding.stage, finding.tunnel) not in bad]


def _concerns(finding: Finding, each: Vip) -> bool:
    return finding.cause is not Cause.TUNNEL_DISABLED_IPV6 or each.ip.version == 6


def _without_consequences(found: Iterable[Finding]) -> list[Finding]:
    """With what follows from a fault before it told as that."""
    findings = list(found)
    roots = [finding for finding in findings if finding.blocks]
    return [_folded(finding, roots) for finding in findings]


def _folded(finding: Finding, roots: Iterable[Finding]) -> Finding:
    if finding.result is StageResult.OK or finding.cause is Cause.FIREWALL_DROPS:  # those were seen
        return finding
    for root in roots:
        if finding.cause is Cause.UNANSWERED:  # whatever the fault is
            return skipped(finding.stage, f"follows from {root.cause}", finding.tunnel, finding.vip)
        if root.vip is not None and finding.vip is None:
            continue  # what is wrong with one VIP explains nothing of the others
        if finding.stage not in _follows(root) or root.tunnel not in (None, finding.tunnel or root.tunnel):
            continue
        return skipped(finding.stage, f"follows from {root.cause}", finding.tunnel, finding.vip)
    return finding


def _follows(root: Finding) -> frozenset[Stage]:
    none: frozenset[Stage] = frozenset()
    also = _FOLLOWS_CAUSE.get(root.cause, none) if root.cause else none
    return _FOLLOWS.get(root.stage, none) | also
