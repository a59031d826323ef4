"""What a fault did: the row that both halves of the harness report."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "| fault | injected | recovered | lost | note |\n|---|---|---|---|---|"


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

    def line(self) -> str:
        """Under HEAD, a row of a Markdown table."""
        return f"| {self.fault} | {self.injected:,} | {self.recovered:,} | {self.lost:,} | {self.note} |"
