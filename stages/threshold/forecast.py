"""How many more units would do: the search for T, simulated on larger validation sets.

The sets are smoothed bootstrap samples (Silverman and Young, "The bootstrap: to smooth or not to smooth?", Biometrika
74, 1987): log-odds of each class drawn with replacement, plus normal noise of Silverman's bandwidth, at the same
variance. Seeded, and bounded: the larger the sets, the fewer are drawn. How often the answer is right:
benchmarks/threshold_coverage.py.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stages.common.bounds import Floats
from stages.threshold.decision import Cuts, Promise
from stages.threshold.fixed_sequence import certify

CHANCE = 0.8  # to certify with the units that are asked for
GROWTH = np.geomspace(1.02, 20, 64)  # more is not worth telling
MAX_SETS, MIN_SETS, SCORES = 100, 10, 400_000  # sets per step of the search, and scores in all of them


class Forecast(NamedTuple):
    more_dirty: int  # units, with clean ones in proportion
    recall: float  # of clean, to be expected with them


def more_units(cuts: Cuts, promise: Promise) -> Forecast | None:
    """The least growth with a chance of CHANCE to certify, were it to score alike; None: not even 20 times as many."""
    classes = [_log_odds(cuts, np.diff(counts, prepend=0)) for counts in (cuts.clean, cuts.dirty)]
    found = bisect_left(GROWTH, CHANCE, key=lambda growth: _chance(classes, promise, growth)[0])
    if found == len(GROWTH):
        return None
    recall = _chance(classes, promise, GROWTH[found])[1]
    return Forecast(int(np.ceil(cuts.n_dirty * GROWTH[found])) - cuts.n_dirty, recall)


def _chance(classes: list[Floats], promise: Promise, growth: float) -> tuple[float, float]:
    """How often so much larger sets certify, and the mean recall of those that do."""
    rng = np.random.default_rng(0)
    sizes = [int(np.ceil(len(scores) * growth)) for scores in classes]
    sets = int(np.clip(SCORES / sum(sizes), MIN_SETS, MAX_SETS))
    is_clean = np.arange(sum(sizes)) < sizes[0]
    recalls = []
    for _ in range(sets):
        scores = np.concatenate([_sample(scores, size, rng) for scores, size in zip(classes, sizes, strict=True)])
        cuts = Cuts.of(is_clean, scores)
        if (cut := certify(cuts, promise)) >= 0:
            recalls.append(cuts.clean[cut] / cuts.n_clean)
    return len(recalls) / sets, float(np.mean(recalls)) if recalls else 0.0


def _sample(scores: Floats, size: int, rng: np.random.Generator) -> Floats:
    """`size` draws from the smoothed scores, shrunk to the mean so that smoothing does not spread them."""
    spread = scores.std()
    middle = np.subtract(*np.quantile(scores, [0.75, 0.25])) / 1.349
    bandwidth = 0.9 * (min(spread, middle) or spread) * len(scores) ** -0.2
    noisy = rng.choice(scores, size) + rng.normal(0, bandwidth, size)
    shrink = spread / np.hypot(spread, bandwidth) if spread else 1.0
    return np.asarray(scores.mean() + (noisy - scores.mean()) * shrink, dtype=np.float64)


def _log_odds(cuts: Cuts, count: NDArray[np.int64]) -> Floats:
    """The scores of one class, of which each cut adds so many."""
    return np.repeat(special.logit(np.clip(cuts.score, 1e-15, 1 - 1e-15)), count)
