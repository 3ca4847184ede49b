"""What must agree between checks and VIPs, and whether somebody else can read what is secret."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from dsr_agent.config.agreement import SHOWN, Refusal, Vips, Where
from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.check_values import unknown_vip
from dsr_agent.config.origins import Origins
from dsr_agent.config.settings import Settings

Checks = Sequence[CheckSettings | None]


def wrong_checks(checks: Checks, vips: Vips, where: Where, *, complete: bool) -> Iterator[Refusal]:
    """
    VIPs that are not there, two checks of one VIP with one name, and questions that cannot be asked from their source.

    *complete*: all VIPs that there are have been read, so that a missing one can be told. Pure.
    """
    known = {text: None for vip in vips if vip for text in (vip.name, str(vip.address))}
    if complete and None not in vips:
        for index, check in enumerate(checks):
            for entry, text in enumerate((check and check.vips) or ()):
                if text not in known:
                    yield where(("check", index, "vips", entry)), unknown_vip(text, tuple(known)[: SHOWN * 2])
    by_name: dict[str, list[int]] = {}
    for index, check in enumerate(checks):
        if check:
            by_name.setdefault(check.name, []).append(index)
    for indices in by_name.values():
        yield from _same_name([(index, check) for index in indices if (check := checks[index])], vips, where)
    for index, check in enumerate(checks):
        if check and check.source and (why := _wrong_source(check, vips)):
            yield where(("check", index, "source")), f'found "{check.source}", {why}'


def _wrong_source(check: CheckSettings, vips: Vips) -> str:
    """A question from a VIP is answered from the VIP by accident; and from one version of IP nobody asks the other."""
    source = check.source
    concerned = [vip for vip in vips if vip and check.concerns(vip.address, vip.name, vip.services)]
    if any(vip and vip.address == source for vip in vips):
        return "a VIP: write an address that is this host's own, or remove this line"
    other = next((vip for vip in concerned if source and vip.address.version != source.version), None)
    if other is None or source is None:
        return ""
    version, mine = other.address.version, [vip for vip in concerned if vip.address.version == source.version]
    if not mine:
        return f"and VIP {other.address} is asked over IPv{version}: write an IPv{version} address, or remove this line"
    listed = ", ".join(f'"{vip.address}"' for vip in mine[:SHOWN]) + (", ..." if len(mine) > SHOWN else "")
    remedy = f"write vips = [{listed}], and a [[check]] of their own for the others"
    return f"and VIP {other.address} is asked over IPv{version}, too: {remedy}"


def _same_name(checks: list[tuple[int, CheckSettings]], vips: Vips, where: Where) -> Iterator[Refusal]:
    if len(checks) < 2:
        return
    first: dict[str, int] = {}
    told: set[int] = set()
    for vip in filter(None, vips):
        first.clear()
        for index, check in checks:
            if not check.concerns(vip.address, vip.name, vip.services):
                continue
            before = first.setdefault(check.name, index)
            if before != index and index not in told:
                told.add(index)
                place = where(("check", index, "name"))
                seen = where(("check", before)).seen_from(place)
                text = f'two checks of VIP {vip.address} are named "{check.name}" ({seen})'
                yield place, f'{text}: give one of them another name = "..."'


def exposed(settings: Settings, origins: Origins) -> Iterator[str]:
    """What is secret, and stands in a file that everybody on this host may read. Looks at the files."""
    for index, check in enumerate(settings.check):
        for key in ("secret", "password"):
            file = f"{key}_file"
            path = getattr(check, file)
            if path and _open_to_all(path):
                place = origins.place(("check", index, file), lines=False)
                yield f"{place}: {path} may be read by everybody: chmod it to 640, chgrp it to the agent's group"
            place = origins.place(("check", index, key), lines=False)
            if getattr(check, key) is not None and _open_to_all(place.source):
                yield (
                    f"{place}: {place.source} may be read by everybody: chmod it to 640, or write the {key} into a "
                    f"file of its own ({file})"
                )


def _open_to_all(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except (OSError, ValueError):  # what cannot be looked at is told when it is needed
        return False
