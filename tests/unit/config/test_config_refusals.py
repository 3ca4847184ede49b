"""Every refusal in full, read from `cases/`: a value or a whole configuration, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from dsr_agent.config.refusals import translate
from tests.unit.config.bad_files import configurations, values
from tests.unit.config.configs import JARGON, MAIN, refused


@pytest.mark.parametrize(("path", "template", "value", "said"), list(values()))
def test_a_value_is_refused(tmp_path: Path, path: str, template: str, value: str, said: str) -> None:
    found = refused(tmp_path, template.replace("{}", value))

    line = template[: template.index("{}")].count("\n") + 1
    assert found == [f"dsr-agent.toml:{line}: {path}: {said}"]
    assert not JARGON.search(found[0])


@pytest.mark.parametrize(("files", "environ", "said"), list(configurations()))
def test_a_configuration_is_refused(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str], said: list[str]
) -> None:
    found = refused(tmp_path, files[MAIN], files, **environ)

    assert found == said
    assert not any(JARGON.search(line) for line in found)


def test_no_kind_of_error_of_the_library_speaks_for_itself() -> None:
    # Also those that no value can bring about today: the next version may know more.
    kinds = get_args(ErrorType)
    assert len(kinds) > 90
    for kind in kinds:
        error = ErrorDetails(type=kind, loc=("vip", 0, "name"), msg="Input should be a valid string", input=object())
        told = translate([error])
        assert all(not JARGON.search(text) for _, text in told), kind
        assert told or kind == "default_factory_not_called"


def test_what_the_translation_does_not_know_is_still_a_sentence() -> None:
    error = ErrorDetails(type="never_heard_of", loc=("vip", 0, "name"), msg="Input should be better", input=3)

    assert translate([error]) == [
        (("vip", 0, "name"), "found 3: this key cannot be that, see the comments in the example file")
    ]


def test_there_are_enough_bad_configurations() -> None:
    assert len(list(values())) > 150
    assert len(list(configurations())) > 50
