"""
What somebody asked for VIPs for a while (drained, held), since when and until when: values, and their file. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from math import isfinite
from typing import Any, NamedTuple

from dsr_agent.state.model import Ip

_VERSION = 1


class Span(NamedTuple):
    """A time in which something holds, in seconds since 1970; *until* is None for one that somebody has to end."""

    since: float
    until: float | None = None

    def over(self, now: float) -> bool:
        """Whether it has ended by itself."""
        return self.until is not None and self.until <= now

    def joined(self, other: Span) -> Span:
        """Both: from the earlier beginning to the later end."""
        ends = (self.until, other.until)
        until = None if None in ends else max(end for end in ends if end is not None)
        return Span(min(self.since, other.since), until)


@dataclass(frozen=True, slots=True)
class Spans:
    """
    For whom something was asked: single VIPs, and *host*, which is every VIP that there is and will be.

    A VIP keeps its span when it leaves the file: should it come back meanwhile, what was asked for it still holds.
    """

    vips: Mapping[Ip, Span] = field(default_factory=dict)
    host: Span | None = None

    def __bool__(self) -> bool:
        return bool(self.vips) or self.host is not None

    def of(self, ip: Ip, now: float) -> Span | None:
        """What holds for one VIP."""
        found = [each for each in (self.host, self.vips.get(ip)) if each is not None and not each.over(now)]
        return found[0].joined(found[-1]) if found else None

    def of_host(self, now: float) -> Span | None:
        """What holds for the host as a whole."""
        return None if self.host is None or self.host.over(now) else self.host

    def plus(self, ips: Iterable[Ip], span: Span) -> Spans:
        """These too, or for another time; none named is the host. Whoever was in before stays so since then."""
        named = tuple(ips)
        if not named:
            return replace(self, host=Span(self.host.since if self.host else span.since, span.until))
        fresh = {ip: Span(self.vips[ip].since if ip in self.vips else span.since, span.until) for ip in named}
        return replace(self, vips={**self.vips, **fresh})

    def minus(self, ips: Collection[Ip], declared: Iterable[Ip]) -> Spans:
        """
        Without these; none named is without any.

        Where the host as a whole was in, all others of the *declared* are in one by one from now on.
        """
        if not ips:
            return Spans()
        vips = dict(self.vips)
        if self.host:
            for ip in declared:
                vips[ip] = vips[ip].joined(self.host) if ip in vips else self.host
        return Spans({ip: span for ip, span in vips.items() if ip not in ips})

    def current(self, now: float) -> Spans:
        """Without those that are over."""
        vips = {ip: span for ip, span in self.vips.items() if not span.over(now)}
        return Spans(vips, self.of_host(now))

    def next_end(self) -> float | None:
        """When the first of them ends by itself."""
        ends = [each.until for each in (*self.vips.values(), self.host) if each is not None and each.until is not None]
        return min(ends, default=None)


# --- the file ---------------------------------------------------------------------------------------------------------


class DamagedError(Exception):
    """What was read is not what was written."""


def text_of(spans: Spans) -> str:
    """As it is kept."""
    kept: dict[str, Any] = {
        "version": _VERSION,
        "host": spans.host and spans.host._asdict(),
        "vips": {str(ip): span._asdict() for ip, span in spans.vips.items()},
    }
    return json.dumps(kept, indent=1) + "\n"


def read(text: str) -> Spans:
    """What `text_of` wrote. Raises `DamagedError` for anything else."""
    try:
        kept = json.loads(text)
        if kept["version"] != _VERSION:
            raise ValueError(f"version {kept['version']!r} is not known")
        host = None if kept["host"] is None else _span(kept["host"])
        return Spans({ip_address(ip): _span(of) for ip, of in kept["vips"].items()}, host)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"it is not what was written there ({error!r})") from None


def _span(kept: Any) -> Span:
    since, until = kept["since"], kept["until"]
    for value in (since, *([] if until is None else [until])):
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"{value!r} is not a time")
    return Span(since, until)
