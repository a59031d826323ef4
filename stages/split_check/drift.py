"""Do the splits hold the same mix of classes and of sources?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2_contingency

from serving.inference.verdict.rule import CLASSES
from stages.split_check.groups import id_of
from stages.split_check.scan import ScannedPhoto

# With 71,000 photos any difference is significant; Cramer's V of 0.1 is what Cohen (1988) calls a small effect.
P_VALUE, EFFECT = 0.001, 0.1
LARGEST = 20  # values that are counted one by one; the rest are others


@dataclass(frozen=True)
class Drift:
    """How one property is spread over the splits."""

    of: str  # class or source
    counts: dict[str, dict[str, int]]  # split -> value -> photos: of the largest values, and of all others together
    p_value: float | None  # of the chi-squared test that all splits have the same mix; None: nothing to compare
    effect: float | None  # Cramer's V, 0..1
    warn: bool  # clearly different: significant, and no small matter


def find_drift(scanned: Sequence[ScannedPhoto], source_regex: str | None) -> list[Drift]:
    """Class, and source where `source_regex` tells it, over the splits."""
    found = [_drift("class", [(one.split, CLASSES[one.photo.label]) for one in scanned])]
    if source_regex is not None:
        found.append(_drift("source", [(one.split, id_of(one.name, source_regex) or "none") for one in scanned]))
    return found


def _drift(of: str, pairs: Sequence[tuple[str, str]]) -> Drift:
    """Count (split, value) pairs and test whether they depend on each other."""
    count, photos = Counter(pairs), Counter(value for _, value in pairs)
    splits, values = list(dict.fromkeys(split for split, _ in pairs)), sorted({value for _, value in pairs})
    table = np.array([[count[split, value] for value in values] for split in splits])
    largest = {value for value, _ in photos.most_common(LARGEST)}
    counts: dict[str, dict[str, int]] = {}
    for split, row in zip(splits, table.tolist(), strict=True):
        named = {value: number for value, number in zip(values, row, strict=True) if value in largest}
        others = {"others": sum(row) - sum(named.values())} if len(values) > LARGEST else {}
        counts[split] = named | others
    if min(table.shape) < 2:
        return Drift(of, counts, None, None, False)
    test = chi2_contingency(table)
    effect = float(np.sqrt(test.statistic / table.sum() / (min(table.shape) - 1)))
    p_value = float(test.pvalue)
    return Drift(of, counts, p_value, effect, p_value < P_VALUE and effect >= EFFECT)
