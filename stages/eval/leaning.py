"""Does the network lean on what has nothing to do with dirt? split_check asks it of the photos, this of the scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from serving.inference.verdict.rule import CLASSES
from stages.common.base.paths import FEATURES
from stages.common.base.photos import rows_of
from stages.eval.metrics import Bools, Floats

LEANS = 0.3  # of a rank correlation's 95 % interval, the end that is nearer to 0: above it a feature is warned of


@dataclass(frozen=True)
class Leaning:
    """The rank correlation of the score with a trivial feature among photos of one class, with its 95 % interval."""

    feature: str
    label: str
    photos: int
    correlation: float
    low: float
    high: float

    @property
    def warn(self) -> bool:
        """Whether the whole interval is away from 0."""
        return max(self.low, -self.high) > LEANS


def read_features(names: Sequence[str]) -> dict[str, Floats]:
    """The trivial features of each photo, `[N]` each and NaN where a photo has none.

    Raises StageError naming the file, or a photo it lacks.
    """

    def parse(row: dict[str, str]) -> dict[str, float]:
        return {key: float(value or "nan") for key, value in row.items() if key != "path"}

    rows = rows_of(names, FEATURES, parse)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def leanings(
    features: dict[str, Floats], is_clean: Bools, logit: Floats, groups: Sequence[str], *, draws: int, seed: int
) -> Iterator[Leaning]:
    """Spearman's correlation of `logit` `[N]` with each feature within each class; a feature that is constant there,
    or missing for all but a few photos, has none.

    Intervals are percentiles of `draws` bootstrap samples of cars (`groups`), of ranks taken once.
    """
    car = np.unique(np.asarray(groups), return_inverse=True)[1]
    for name, values in features.items():
        for label, members in zip(CLASSES, (~is_clean, is_clean), strict=True):
            known = members & np.isfinite(values)
            if known.sum() < 3 or len(np.unique(values[known])) < 2 or len(np.unique(logit[known])) < 2:
                continue
            ranks = np.stack([rankdata(values[known]), rankdata(logit[known])])
            cars, own = np.unique(car[known], return_inverse=True)
            rng = np.random.default_rng(seed)
            even = np.full(len(cars), 1 / len(cars))
            sampled = [_correlation(ranks, rng.multinomial(len(cars), even)[own]) for _ in range(draws)]
            low, high = np.nanquantile(sampled, [0.025, 0.975])
            found = _correlation(ranks, np.ones(len(own)))
            yield Leaning(name, label, int(known.sum()), float(found), float(low), float(high))


def _correlation(ranks: Floats, weight: NDArray[np.floating | np.integer]) -> float:
    """Pearson's correlation of two rows `[2, N]`, photos counted `weight` `[N]` times; NaN where one is constant."""
    centred = ranks - np.average(ranks, axis=1, weights=weight)[:, None]
    (a, both), (_, b) = (weight * centred) @ centred.T
    return float(both / np.sqrt(a * b)) if a * b > 0 else float("nan")


def auc_within_sources(sources: NDArray[np.str_], is_clean: Bools, logit: Floats) -> dict[str, float]:
    """ROC-AUC among the photos of each source that has both classes: across sources, knowing the source helps."""
    aucs = {}
    for source in sorted(set(sources.tolist()) - {""}):
        here = sources == source
        if is_clean[here].any() and not is_clean[here].all():
            aucs[source] = float(roc_auc_score(is_clean[here], logit[here]))
    return aucs
