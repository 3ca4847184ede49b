"""What was seen of each encapsulation, as one table in Markdown: a row for each sender, a column for each question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

COLUMNS = (
    "UDP",
    "UDP 4,000 B",
    "TCP 1 MB",
    "drift repaired",
    "forged refused",
    "self-test passes",
    "self-test fails",
)
GOOD, NONE = "yes", "–"


@dataclass
class Matrix:
    """
    What each column says of each cell: a sender, the version of IP inside, and that of the header around (0: none).

    Cells of one sender that fare alike are one row.
    """

    cells: dict[tuple[str, int, int], dict[str, str]] = field(default_factory=dict)

    def put(self, sender: str, inner: int, outer: int, column: str, value: str) -> None:
        """*value* is `GOOD`, `NONE` for what cannot be asked, or what went wrong."""
        assert column in COLUMNS
        self.cells.setdefault((sender, inner, outer), {})[column] = value

    def lines(self) -> Iterator[str]:
        """The table."""
        yield f"| sender | IP in IP | {' | '.join(COLUMNS)} |"
        yield "|---" * (len(COLUMNS) + 2) + "|"
        rows: dict[tuple[str, ...], list[str]] = {}
        for (sender, inner, outer), said in self.cells.items():
            key = (sender, *(said.get(column, "not tried") for column in COLUMNS))
            rows.setdefault(key, []).append(f"{inner} in {outer}" if outer else f"{inner}")
        for (sender, *values), versions in rows.items():
            yield f"| {sender} | {', '.join(versions)} | {' | '.join(values)} |"
