"""What a fault did: the row that both halves of the harness report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One kind of fault: how often it was injected, after how many all was well again, and what was lost that must
    not be: runs with other bits, answers 5xx or none at all where one was due."""

    fault: str
    injected: int
    recovered: int
    lost: int
    note: str = ""

    @property
    def fine(self) -> bool:
        """Whether everything was withstood."""
        return self.recovered == self.injected and self.lost == 0


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| fault | injected | recovered | lost | note |", "|---|---|---|---|---|"]
    lines += [f"| {row.fault} | {row.injected:,} | {row.recovered:,} | {row.lost:,} | {row.note} |" for row in rows]
    return "\n".join(lines)
