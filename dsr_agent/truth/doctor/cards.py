"""Cards that hear nothing: down, or with nobody at the other end of the cable. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dsr_agent.state.model import Ip
from dsr_agent.truth.doctor.causes import Cause
from dsr_agent.truth.doctor.evidence import Evidence


class Deaf(NamedTuple):
    """A card that hears nothing, why, and what mends it."""

    card: str
    cause: Cause
    why: str
    remedy: str


def deaf(evidence: Evidence, places: Iterable[Ip], cards: Iterable[str] = ()) -> Deaf | None:
    """The first of *cards* and of those that have *places*, if none of them hears anything."""
    names = dict.fromkeys([*cards, *filter(None, map(evidence.card_of, places))])
    found = [link for name in names if (link := evidence.observed.links.get(name))]
    if not found or any(link.up and link.carrier for link in found):
        return None
    name = found[0].name
    if not found[0].up:
        return Deaf(name, Cause.CARD_DOWN, "is down", f"ip link set {name} up")
    return Deaf(name, Cause.NO_CARRIER, "has no carrier", f"see to its cable and to the other end: ethtool {name}")
