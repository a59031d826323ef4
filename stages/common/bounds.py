"""Bounds on one rate and on the ratio of two, vectorised. Counts: integers of any shape, broadcast; rates in [0, 1].

One rate: Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26 (1934). The ratio melds two such bounds instead of splitting the error between them, which would cost
half the recall where photos are few: Fay, Proschan & Brittain, "Combining one-sample confidence procedures for
inference in the two-sample case", Biometrics 71 (2015).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
_NODES = np.linspace(-9, 9, 33)  # standard deviations of log-odds; the trapezoid rule on them is good to 1e-6


def rate_low(hits: ArrayLike, total: ArrayLike, level: ArrayLike) -> Floats:
    """The rate that is undercut with probability <= level; 0 where there are no hits (or no trials)."""
    hits, total = np.asarray(hits), np.asarray(total)
    bound = special.betaincinv(np.maximum(hits, 1), total - hits + 1.0, level)
    return np.where(hits > 0, bound, 0.0)


def rate_high(hits: ArrayLike, total: ArrayLike, level: ArrayLike) -> Floats:
    """The rate that is exceeded with probability <= level; 1 where every trial hit (or there were none)."""
    hits, total = np.asarray(hits), np.asarray(total)
    return 1.0 - rate_low(total - hits, total, level)


def units_for(rate: float, level: float) -> int:
    """The fewest trials that prove, where none hits, that the rate is at most this: `tail(0, units, rate) <= level`."""
    return int(np.ceil(np.log(level) / np.log1p(-rate)))


def tail(hits: ArrayLike, total: ArrayLike, rate: ArrayLike) -> Floats:
    """P(at most `hits` of `total`) at this rate: the exact p-value against 'the rate is at least this'."""
    hits, total = np.asarray(hits), np.asarray(total)
    inside = special.betainc(np.maximum(total - hits, 1), hits + 1.0, 1.0 - np.asarray(rate, dtype=float))
    return np.where(hits < 0, 0.0, np.where(hits >= total, 1.0, inside))


def ratio_tail(clean: ArrayLike, n_clean: int, dirty: ArrayLike, n_dirty: int, ratio: float) -> Floats:
    """P-value against 'the dirty rate is at least ratio * the clean rate'; 1 where clean is 0.

    E[tail(dirty, n_dirty, ratio * a)] over a ~ Beta(clean, n_clean - clean + 1), the law of the rate down to the
    clean-th highest of n_clean scores. So it is exact where `clean` was fixed beforehand: were each dirty photo kept
    with probability `ratio` and shuffled among the clean ones, how likely would so few rank above the clean-th?
    Where both counts are binomial it is the melded p-value; no case is known where that is too small, and
    the tests sum its true size.
    """
    hits = np.maximum(np.asarray(clean, dtype=float), 1)[..., None]
    rest = n_clean - hits + 1
    spread = np.sqrt(special.polygamma(1, hits) + special.polygamma(1, rest))
    odds = special.digamma(hits) - special.digamma(rest) + spread * _NODES
    weight = hits * special.log_expit(odds) + rest * special.log_expit(-odds)
    weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
    rate = np.minimum(ratio * special.expit(odds), 1.0)
    mean = (weight * tail(np.asarray(dirty)[..., None], n_dirty, rate)).sum(axis=-1) / weight.sum(axis=-1)
    return np.where(np.asarray(clean) > 0, mean, 1.0)


def ratio_high(clean: int, n_clean: int, dirty: int, n_dirty: int, level: float) -> float:
    """The melded upper bound on dirty rate / clean rate.

    Infinite where no clean photo is accepted; 1 where all of both classes are, for then the threshold is 0.
    """
    if clean == 0:
        return float("inf")
    if dirty == n_dirty:
        return 1.0 if clean == n_clean else 1.0 / float(rate_low(clean, n_clean, level))

    def excess(log_ratio: float) -> float:
        return float(ratio_tail(clean, n_clean, dirty, n_dirty, float(np.exp(log_ratio)))) - level

    return float(np.exp(optimize.brentq(excess, -30.0, np.log(n_clean / clean) + 20)))


def precision_at_share(ratio: ArrayLike, share: ArrayLike) -> Floats:
    """Precision of clean where this share of the cars is dirty, given dirty rate / clean rate; infinite ratio: 0."""
    odds = np.asarray(share, dtype=np.float64) / (1 - np.asarray(share, dtype=np.float64))
    return np.asarray(1 / (1 + odds * np.asarray(ratio)), dtype=np.float64)
