"""Prometheus's own tool on what we export, and on the rules and dashboards that we ship."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.service.test_artefacts import DASHBOARDS, PACKAGING, expressions
from tests.unit.service.test_metrics import full

VARIABLES = re.compile(r"\$(__\w+|\w+)")
MEANING = {"__rate_interval": "5m", "__range": "1h"}


def promtool(*arguments: str, given: str = "", where: Path | None = None) -> str:
    """Run it; its complaint is the failure."""
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False, cwd=where)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_everything_that_is_exported_is_as_prometheus_wants_it() -> None:
    assert promtool("check", "metrics", given=full().page()) == ""


def test_the_rules() -> None:
    promtool("check", "rules", "dsr-agent.rules.yml", where=PACKAGING / "prometheus")
    assert "SUCCESS" in promtool("test", "rules", "dsr-agent.test.yml", where=PACKAGING / "prometheus")


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_can_be_parsed(dashboard: Path, tmp_path: Path) -> None:
    queries = [text for text in expressions(dashboard) if "label_values" not in text]
    plain = [VARIABLES.sub(lambda found: MEANING.get(found.group(1), ".*"), query) for query in queries]
    rules = [{"record": f"dashboard:panel:{number}", "expr": query} for number, query in enumerate(plain)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", str(file))
