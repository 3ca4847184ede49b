"""Rules and dashboards speak of metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.service.metrics.families import FAMILIES

PACKAGING = Path(__file__).parents[3] / "packaging"
RULES = PACKAGING / "prometheus/dsr-agent.rules.yml"
DASHBOARDS = sorted((PACKAGING / "grafana").glob("*.json"))

# What we do not export but every scrape and every process has.
COMMON = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
NAMES = {*FAMILIES, *COMMON} | {
    f"{name}_{part}"
    for name, family in FAMILIES.items()
    if family.type == "histogram"
    for part in ("bucket", "sum", "count")
}
NOT_OURS = {"job", "instance", "alertname"}


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard."""
    found: list[dict[str, Any]] = json.loads(dashboard.read_text())["panels"]
    return found


def expressions(dashboard: Path) -> Iterator[str]:
    """Every query of a dashboard, those of its variables included."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield target["expr"]
    for variable in json.loads(dashboard.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def unknown(expression: str, known: set[str]) -> list[str]:
    """The names in *expression* that look like ours and are not."""
    return [name for name in re.findall(r"(?<![\w:])[\w:]*dsr_[\w:]+", expression) if name not in known]


def wrong_labels(expression: str) -> list[str]:
    """Labels that are asked for and that the metric does not have."""
    wrong = []
    for name, matchers in re.findall(r"(dsr_\w+)\{([^}]*)\}", expression):
        family = FAMILIES.get(re.sub(r"_(bucket|sum|count)$", "", name)) or FAMILIES[name]
        asked = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        wrong += [f"{name}{{{label}}}" for label in asked if label not in {*family.labels, *NOT_OURS}]
    return wrong


def test_the_check_would_find_a_wrong_name_and_a_wrong_label() -> None:
    assert unknown("rate(dsr_tunel_up[5m])", NAMES) == ["dsr_tunel_up"]
    assert unknown("rate(dsr_tunnel_up[5m])", NAMES) == []
    assert wrong_labels('dsr_tunnel_up{device="a", job="b"}') == ["dsr_tunnel_up{device}"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
class TestDashboards:
    def test_every_query_is_about_metrics_that_exist(self, dashboard: Path) -> None:
        for expression in expressions(dashboard):
            assert unknown(expression, NAMES) == []
            assert wrong_labels(expression) == []

    def test_every_panel_has_a_name_a_place_and_the_chosen_source(self, dashboard: Path) -> None:
        places: set[tuple[int, int]] = set()
        for panel in panels(dashboard):
            assert panel["title"]
            assert panel["targets"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & places, f"{panel['title']} lies on another panel"
            assert at["x"] + at["w"] <= 24
            places |= cells
        ids = [panel["id"] for panel in panels(dashboard)]
        assert len(set(ids)) == len(ids)

    def test_every_variable_that_is_used_is_there(self, dashboard: Path) -> None:
        names = {variable["name"] for variable in json.loads(dashboard.read_text())["templating"]["list"]}
        used = {name for text in expressions(dashboard) for name in re.findall(r"\$\{?(\w+)", text)}
        assert used - {"__rate_interval", "__range", "__interval"} <= names


def test_every_rule_is_about_metrics_that_exist() -> None:
    text = RULES.read_text()
    recorded = set(re.findall(r"record: (\S+)", text))
    for expression in re.findall(r"expr: (?:>-\n)?((?:.+\n)(?: {10}.+\n)*)", text):
        assert unknown(expression, NAMES | recorded) == []
        assert wrong_labels(expression) == []


def test_every_alert_is_tested_says_how_bad_it_is_and_what_to_do() -> None:
    text = RULES.read_text()
    tested = (PACKAGING / "prometheus/dsr-agent.test.yml").read_text()
    alerts = re.split(r"- alert: ", text)[1:]
    assert len(alerts) > 10
    readme = (PACKAGING.parent / "README.md").read_text()
    for alert in alerts:
        name = alert.split("\n", 1)[0]
        assert f"`{name}`" in readme, f"{name} is not in the README"
        assert name in tested, f"{name} never fires in a test"
        for part in ("severity:", "summary:", "description:"):
            assert part in alert, f"{name} has no {part}"
