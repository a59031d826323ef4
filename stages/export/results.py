"""The verdicts on the test photos, one by one: for the page of mistakes and the model card."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.verdict.rule import CLEAN, DIRTY, Rule
from stages.common.base.paths import PREDICTIONS
from stages.common.base.photos import read_groups
from stages.common.rates import Outcome, outcome


@dataclass(frozen=True)
class Result:
    """One photo of test."""

    path: str
    label: str
    p_clean: float
    verdict: str
    car: str
    source: str  # "" without source_regex; "other" where it does not match

    @property
    def mistake(self) -> str:
        """`false clean`, `false dirty` or nothing."""
        return f"false {self.verdict}" if self.verdict in (CLEAN, DIRTY) and self.verdict != self.label else ""


def read_results(rule: Rule, source_regex: str | None) -> list[Result]:
    """The results on test, by the predictions that were certified."""
    with (PREDICTIONS / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cars = read_groups([row["path"] for row in rows])
    results = []
    for row, car in zip(rows, cars, strict=True):
        found = re.search(source_regex, row["path"]) if source_regex else None
        source = (found[1] or "other") if found else "other" if source_regex else ""
        p_clean = float(row["p_clean"])
        results.append(
            Result(row["path"], row["label"], p_clean, rule.decide(p_clean, float(row["distance"])), car, source)
        )
    return results


def by_source(results: Sequence[Result]) -> dict[str, Outcome]:
    """Counts and rates of each source; nothing without sources."""
    sources = sorted({one.source for one in results if one.source})
    parts = {name: [one for one in results if one.source == name] for name in sources}
    return {
        name: outcome(np.array([one.label == CLEAN for one in part]), np.array([one.verdict for one in part]))
        for name, part in parts.items()
    }
