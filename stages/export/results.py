"""The verdicts on the test photos, one by one: for the page of mistakes and the model card."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.inference.verdict.rule import CLEAN, DIRTY, Rule
from stages.common.base.photos import read_predictions
from stages.common.rates import Outcome, outcome, verdicts


@dataclass(frozen=True)
class Result:
    path: str
    label: str
    p_clean: float
    verdict: str
    car: str
    source: str  # "" without sources; "other" where the photo has none

    @property
    def mistake(self) -> str:
        """`false clean`, `false dirty` or nothing."""
        return f"false {self.verdict}" if self.verdict in (CLEAN, DIRTY) and self.verdict != self.label else ""


def read_results(rule: Rule) -> list[Result]:
    """The results on test, by the predictions that were certified."""
    test = read_predictions("test")
    unknown = "other" if any(test.sources) else ""
    verdict = verdicts(rule, test.p_clean, test.measures)
    label = np.where(test.is_clean, CLEAN, DIRTY)
    sources = np.where(test.sources == "", unknown, test.sources)
    columns = (test.names, label, test.p_clean, verdict, test.groups, sources)
    return [Result(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def by_source(results: Sequence[Result]) -> dict[str, Outcome]:
    """Counts and rates of each source; nothing without sources."""
    sources = sorted({one.source for one in results if one.source})
    parts = {name: [one for one in results if one.source == name] for name in sources}
    return {
        name: outcome(np.array([one.label == CLEAN for one in part]), np.array([one.verdict for one in part]))
        for name, part in parts.items()
    }
