"""A family that is written row by row is, to the letter, what the library writes, in all formats that it knows."""

from __future__ import annotations

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from dsr_agent.service.metrics.families import FAMILIES
from dsr_agent.service.metrics.sheets import Families, Sheet, write

VIPS = [("192.0.2.10", 0), ("192.0.2.11", True), ("2001:db8::10", 123456)]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FORMATS = ["", "text/plain; version=0.0.4", "text/plain; version=1.0.0; escaping=dots", OPENMETRICS]
FORMATS += [f"{OPENMETRICS}; escaping={scheme}" for scheme in ("underscores", "allow-utf-8", "dots", "values")]


@pytest.mark.parametrize("accept", FORMATS)
@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("dsr_vip_present", {(): VIPS}),
        ("dsr_vip_drained", {(): []}),
        ("dsr_vip_received_packets_total", {(): VIPS}),
        ("dsr_service_listening", {("udp/1812",): VIPS[:2], ("tcp/49",): VIPS[1:]}),
        ("dsr_probe_success", {("dsr-ipip",): VIPS, ('a"b\\c{},# 0.0',): VIPS[:1], ("0.0",): VIPS[1:]}),
        ("dsr_probe_success", {}),
        ("dsr_check_failures_total", {("radius", "timeout"): VIPS, ("\u2028", "refused"): VIPS}),
        ("dsr_check_duration_seconds", {("radius",): [("192.0.2.10", 0.0123)]}),
    ],
)
def test_it_is_what_the_library_writes(accept: str, name: str, sheet: Sheet) -> None:
    """But for the fraction of whole numbers, which have none."""
    encode, _ = choose_encoder(accept)
    family = FAMILIES[name]
    kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for other, rows in sheet.items():
        for vip, value in rows:
            metric.add_metric((vip, *other), value)
    wanted = encode(Families([metric])).decode().removesuffix("# EOF\n")
    assert write(encode, family, sheet) == wanted.replace(".0\n", "\n")
