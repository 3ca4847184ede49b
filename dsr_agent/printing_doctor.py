"""How the doctor's diagnosis looks on a terminal, and as JSON. Pure; no decisions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from dsr_agent.truth.doctor.causes import Finding
from dsr_agent.truth.doctor.walk import Diagnosis

# What a person reads on one screen; the rest is counted. JSON always has all of it.
_ON_A_SCREEN = 12

_Look: TypeAlias = tuple[object, ...]


def diagnosed(found: Diagnosis) -> str:
    """The way of each VIP, equal ones told once; then what is wrong, the root first, and what mends it."""
    blocks: dict[_Look, list[Any]] = {}
    for ip, stages in found.vips.items():
        blocks.setdefault(_look(stages), []).append(ip)
    lines: list[str] = []
    for look in list(blocks)[:_ON_A_SCREEN]:
        ips = blocks[look]
        lines += [f"VIP {ips[0]}{_others(len(ips) - 1)}", *map(_row, found.vips[ips[0]])]
    if len(blocks) > _ON_A_SCREEN:
        lines.append(f"... and {len(blocks) - _ON_A_SCREEN} other ways of VIPs (--json has all)")
    if found.tried < len(found.vips):
        lines.append(f"the self-test was sent to {found.tried} of {len(found.vips)} VIPs")
    return "\n".join([*lines, *_causes(found.causes)])


def _look(stages: Iterable[Finding]) -> _Look:
    """What makes two VIPs look alike."""
    return tuple((each.stage, each.tunnel, each.result, each.cause) for each in stages)


def _others(count: int) -> str:
    return f" and {count:,} more VIP{'s' * (count != 1)}" if count else ""


def _row(each: Finding) -> str:
    return f"  {each.stage:<12} {each.result:<7} {f'{each.tunnel}: ' if each.tunnel else ''}{each.saw}"


def _causes(causes: Iterable[Finding]) -> list[str]:
    folded: dict[_Look, list[Finding]] = {}
    for each in causes:
        folded.setdefault((each.cause, each.result, each.tunnel), []).append(each)
    if not folded:
        return ["nothing is wrong"]
    lines: list[str] = []
    for place, same in enumerate(list(folded.values())[:_ON_A_SCREEN], 1):
        first, alike = same[0], [each for each in same if each.vip == same[0].vip]
        others = _others(len({each.vip for each in same}) - 1)
        lines.append(f"{place}. {first.result}: {first.cause}{_about(first)}{others}: {first.saw}")
        lines += [f"   and: {each.saw}" for each in alike[1:]]
        lines += [f"   evidence: {text}" for text in dict.fromkeys(text for each in alike for text in each.evidence)]
        lines += [f"   to mend it: {remedy}" for remedy in dict.fromkeys(each.remedy for each in alike)]
    if len(folded) > _ON_A_SCREEN:
        lines.append(f"... and {len(folded) - _ON_A_SCREEN} more (--json has all)")
    return lines


def _about(each: Finding) -> str:
    words = [f"VIP {each.vip}"] * (each.vip is not None) + [f"tunnel {each.tunnel}"] * (each.tunnel is not None)
    return f" ({', '.join(words)})" if words else ""


def diagnosed_json(found: Diagnosis) -> dict[str, Any]:
    """The same for machines."""
    return {
        "ok": found.fine,
        "tried": found.tried,
        "causes": [{"cause": each.cause, "vip": _vip(each), **_stage(each)} for each in found.causes],
        "vips": {str(ip): [_stage(each) for each in stages] for ip, stages in found.vips.items()},
    }


def _vip(each: Finding) -> str | None:
    return None if each.vip is None else str(each.vip)


def _stage(each: Finding) -> dict[str, Any]:
    return {
        "stage": each.stage,
        "tunnel": each.tunnel,
        "result": each.result,
        "saw": each.saw,
        "evidence": list(each.evidence),
        "cause": each.cause,
        "remedy": each.remedy or None,
    }
