"""What the tables of the file have in common: strict, frozen, no unknown keys; and lists without repeats."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from dsr_agent.config.wording import Refused, show

T = TypeVar("T")

# A list of the file: lax, because strict tuples take no lists; still nothing but a list gets in.
Several = Annotated[tuple[T, ...], Field(strict=False)]


class Section(BaseModel):
    """One table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def no_repeats(found: tuple[object, ...]) -> None:
    """Refuse a list that has something twice."""
    first: dict[object, int] = {}
    for index, item in enumerate(found):
        if item in first:
            text = str(item).removesuffix("/32").removesuffix("/128")
            raise Refused(f"found {show(text)} twice (entries {first[item]} and {index}): remove one of them")
        first[item] = index


def several(example: str) -> WrapValidator:
    """A list without repeats; anything else is answered with *example*."""

    def read(value: object, entries: ValidatorFunctionWrapHandler) -> Any:
        if not isinstance(value, list | tuple):
            wrapped = (
                f'["{value}"]' if isinstance(value, str) and value.isprintable() and 0 < len(value) < 60 else example
            )
            raise Refused(f"found {show(value)}: write a list: {wrapped if value else example}")
        found = entries(value)
        no_repeats(found)
        return found

    return WrapValidator(read)
