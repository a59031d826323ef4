"""The share of dirty cars from scores alone, and whether a change of that share explains the scores.

Label shift: the scores of clean cars, and of dirty ones, stay what they were; only the share of dirty cars changes.
Then it follows from how many are called clean: black-box shift estimation, Lipton, Wang & Smola, ICML 2018. EM on the
whole scores (Saerens, Latinne & Decaestecker, Neural Computation 14, 2002) is a check. Where no mixture of both kinds
fits, something else has changed: the Kolmogorov-Smirnov distance to the nearest mixture, divided by its standard
deviation (Anderson & Darling 1952) since dirty cars lie in the tail, against a parametric bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 40  # of the scores, by quantiles of the reference
DRAWS = 400
_SPARE = 0.05  # photos added to each bin, so that none is impossible
_SHARES: Floats = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Scores:
    """Photos of one kind: how many have a p_clean in each bin, `[K]`, and how many of all are called clean."""

    bins: Floats
    called_clean: float

    @property
    def photos(self) -> float:
        """How many there are."""
        return float(self.bins.sum())

    @property
    def clean_rate(self) -> float:
        """The share that is called clean."""
        return self.called_clean / self.photos

    @classmethod
    def from_photos(cls, p_clean: ArrayLike, edges: ArrayLike, t_clean: float) -> Scores:
        """p_clean: `[N]`. edges: the upper ends of all bins but the last, `[K - 1]`, each within its bin."""
        p, upper = np.asarray(p_clean), np.asarray(edges)
        bins = np.bincount(np.searchsorted(upper, p), minlength=len(upper) + 1)
        return cls(bins.astype(np.float64), float((p >= t_clean).sum()))


def quantiles(p_clean: ArrayLike) -> Floats:
    """Edges of BINS bins, or of fewer where scores are tied."""
    return np.asarray(np.unique(np.quantile(np.asarray(p_clean), np.linspace(0, 1, BINS + 1)[1:-1])), np.float64)


def closed_form(clean: ArrayLike, dirty: ArrayLike, now: ArrayLike) -> Floats:
    """The share of dirty cars, from the rates at which clean, dirty and present cars are called clean; 0..1.

    NaN where `clean` is not above `dirty`.
    """
    clean, dirty = np.asarray(clean, np.float64), np.asarray(dirty, np.float64)
    apart = np.where(clean > dirty, clean - dirty, np.nan)
    return np.asarray(np.clip((clean - np.asarray(now)) / apart, 0, 1), np.float64)


def interval(clean: Scores, dirty: Scores, now: Scores, rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % bootstrap interval of the closed form, over draws of the reference and of the present photos."""
    rates = [rng.binomial(int(kind.photos), kind.clean_rate, 4 * DRAWS) / kind.photos for kind in (clean, dirty, now)]
    low, high = np.nanquantile(closed_form(*rates), [0.025, 0.975])
    return float(low), float(high)


def em(clean: Scores, dirty: Scores, now: Scores) -> float:
    """The most likely share of dirty cars, given how the scores of each kind are spread over the bins."""
    like_clean, like_dirty = ((kind.bins + _SPARE) / (kind.photos + _SPARE * len(kind.bins)) for kind in (clean, dirty))
    share = 0.5
    for _ in range(1000):
        posterior = share * like_dirty / (share * like_dirty + (1 - share) * like_clean)
        before, share = share, float(now.bins @ posterior / now.photos)
        if abs(share - before) < 1e-6:
            break
    return share


def explained(clean: Scores, dirty: Scores, now: Scores, rng: np.random.Generator) -> tuple[float, float]:
    """Is it a mere change of the share? The distance to the nearest mixture, and its p-value."""
    found, share = _distance(clean.bins[None], dirty.bins[None], now.bins[None])
    mixture = share[0] * dirty.bins / dirty.photos + (1 - share[0]) * clean.bins / clean.photos
    drawn, _ = _distance(
        rng.multinomial(int(clean.photos), clean.bins / clean.photos, DRAWS),
        rng.multinomial(int(dirty.photos), dirty.bins / dirty.photos, DRAWS),
        rng.multinomial(int(now.photos), mixture / mixture.sum(), DRAWS),
    )
    return float(found[0]), float((1 + (drawn >= found[0]).sum()) / (1 + DRAWS))


def _distance(clean: ArrayLike, dirty: ArrayLike, now: ArrayLike) -> tuple[Floats, Floats]:
    """Counts `[B, K]` -> the distance to the nearest mixture, and its share of dirty cars, `[B]`."""
    curves = [np.cumsum(counts, -1) / np.sum(counts, -1, keepdims=True) for counts in (clean, dirty, now)]
    low, high, here = (curve[:, None, :-1] for curve in curves)
    mixture = low + _SHARES[:, None] * (high - low)
    apart = (np.abs(here - mixture) / np.sqrt(mixture * (1 - mixture) + 1e-3)).max(-1)
    return apart.min(-1), _SHARES[apart.argmin(-1)]
