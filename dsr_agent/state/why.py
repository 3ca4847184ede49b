"""Why a step is needed."""

from __future__ import annotations

from enum import StrEnum


class Why(StrEnum):
    """Why a step is needed, in words for people; `str()` of the step says what it does."""

    MISSING = "it is missing"
    CHANGED = "it was changed"
    DOWN = "it is down"
    UNMARKED = "its mark was wiped"
    ADOPTED = "adopted: it was there already, identical and unmarked"
    MISNAMED = "it is ours under another name"
    NEW = "it belongs to a new link"
    NEEDED = "a new link needs it"
    FOLLOWS = "this host's addresses are others now"
    KEPT = "nobody else is to change it"
    REPLACEMENT = "it takes the place of one that cannot be changed"
    REPLACED = "it is replaced"
    LEFT_OVER = "it is a left-over"
    UNWANTED = "it is not in the file (any more)"
    FALLBACK = "it decapsulates for every address of this host"
    TEARDOWN = "teardown"

    @property
    def is_part(self) -> bool:
        """Whether the step only completes another one, and is told with it."""
        return self in (Why.NEW, Why.NEEDED, Why.KEPT, Why.FOLLOWS)
