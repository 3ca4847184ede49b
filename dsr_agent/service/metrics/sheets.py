"""
Families with a row for each VIP: there may be 10,000 in each, and the library takes 8 microseconds for a row.

So it writes one row for all VIPs that differ in nothing else, in whatever format the scraper asked for, and the others
are made from that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dsr_agent.service.metrics.families import GAUGES, Family

Rows: TypeAlias = Iterable[tuple[str, float]]
Sheet: TypeAlias = Mapping[tuple[str, ...], Rows]
"""VIPs and their values, by the values of the labels that come after ``vip``."""

# Stands for a VIP; neither the library nor a label has anything to do with it.
_ANY = "\0"
_ZERO = "0.0"


class Families(Collector):
    """Families as the library wants to be given them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        return iter(self._metrics)


def write(encode: Callable[[Collector], bytes], family: Family, sheet: Sheet) -> str:
    """The whole family, as *encode* writes it."""
    kind = GaugeMetricFamily if family.name in GAUGES else CounterMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for other in sheet:
        metric.add_metric((_ANY, *other), 0.0)
    lines = encode(Families([metric])).decode().removesuffix("# EOF\n").split("\n")[:-1]
    head = len(lines) - len(sheet)
    text = [f"{line}\n" for line in lines[:head]]
    for line, rows in zip(lines[head:], sheet.values(), strict=True):
        before, after = line.removesuffix(_ZERO).split(_ANY)
        text += [f"{before}{vip}{after}{+value}\n" for vip, value in rows]  # +True is 1
    return "".join(text)
