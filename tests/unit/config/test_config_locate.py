"""The line that a refusal names is the line on which the key stands, whatever stands around it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsr_agent.config.locate import line_of, lines_of
from dsr_agent.config.wording import KeyPath
from tests.unit.config.configs import TUNNEL, VIP, loaded

# Values that look like something else to whoever reads line by line.
VALUES = [
    "1",
    '"[[vip]]"',
    '"""\n[[vip]]\naddress = 1\n"""',
    "'''\nname = 2 # ]\n'''",
    "[\n]",
    '[\n  1, # ["\n  [2,\n3],\n]',
    '["""\n]\n""", "]"]',
    "{ a = [1,\n2] }",
    '{ a = { b = "}" } }',
    "2026-01-01 00:00:00",
]
NOISE = ["", "# [[vip]]", "   ", "# name = '''", "\t# ]"]
KEYS = ["name", "address", '"a.b"', "'[x]'", "x.y", "x . z"]


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """A valid text, and the line of each of its tables and keys."""
    lines: list[str] = []
    expected: dict[KeyPath, int] = {}
    vips = 0
    for header in draw(st.lists(st.sampled_from(["[[vip]]", "[[ 'vip' ]] # ]]", "[vip.sub]"]), max_size=4)):
        lines += draw(st.lists(st.sampled_from(NOISE), max_size=2))
        below: KeyPath
        if "sub" in header:
            if not vips or ("vip", vips - 1, "sub") in expected:
                continue
            below = ("vip", vips - 1, "sub")
        else:
            below = ("vip", vips)
            vips += 1
        lines.append(draw(st.sampled_from(["", "  "])) + header)
        expected[below] = len(lines)
        for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=4)):
            lines += draw(st.lists(st.sampled_from(NOISE), max_size=2))
            path = tuple(part.strip(" '\"") for part in ([key] if key[0] in "'\"" else key.split(".")))
            expected[(*below, *path)] = len(lines) + 1
            lines += f"{key} = {draw(st.sampled_from(VALUES))}".split("\n")
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines), expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_every_key_and_table_is_found_on_its_line(document: tuple[str, dict[KeyPath, int]]) -> None:
    text, expected = document
    tomllib.loads(text)

    lines = lines_of(text)

    assert {path: lines.get(path) for path in expected} == expected


def test_what_has_no_line_of_its_own_is_where_its_surroundings_are() -> None:
    lines = lines_of('\n[[vip]]\n\nservices = [\n  "udp/1",\n  3,\n]\n')

    assert line_of(("vip", 0, "services", 1), lines) == 4
    assert line_of(("vip", 0, "address"), lines) == 2
    assert line_of(("tunnel", 0), lines) == 0


def test_a_text_that_would_cost_too_much_is_left_without_lines() -> None:
    text = "[agent]\nx = [\n" + "[],\n" * 5000 + "]\n[http]\n"

    lines = lines_of(text)

    assert line_of(("agent",), lines) == 1
    assert line_of(("http",), lines) == 0


def test_a_long_list_does_not_cost_too_much() -> None:
    lines = lines_of("load_balancers = [\n" + '"10.1.0.5",\n' * 3000 + "]\n[http]\n")

    assert lines == {("load_balancers",): 1, ("http",): 3003}


def test_what_is_nested_deeper_than_anything_of_ours_is_not_followed() -> None:
    # Following it would cost the square of its depth.
    lines = lines_of("[" + "a." * 500 + "a]\n" + "b." * 500 + "b = 1\n")

    assert {len(path) for path in lines} == {8}


def test_good_files_are_not_searched_for_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsr_agent.config.origins.lines_of", None)

    text = TUNNEL.replace('["10.1.0.5"]', '"any"') + VIP + "tunnels = []\n"
    assert len(loaded(tmp_path, text).warnings) == 2
