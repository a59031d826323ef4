"""The share of dirty cars from scores alone, and whether a change of that share explains the scores.

Label shift: the scores of clean cars, and of dirty ones, stay what they were; only the share of dirty cars changes.
Then it follows from how many are called clean: black-box shift estimation, Lipton, Wang & Smola, ICML 2018. EM on the
whole scores (Saerens, Latinne & Decaestecker, Neural Computation 14, 2002) is a check. Where no mixture of both kinds
fits, something else has changed. Three tests look for that, the least of their p-values against a parametric bootstrap:
whether dirty cars, and whether clean ones, have moved along the log-odds of p_clean, each a score test with the share
as a nuisance (Neyman's C(alpha), 1959), since dirty cars are few and what else differs drowns them; and for any other
change the Kolmogorov-Smirnov distance to the nearest mixture, divided by its standard deviation (Anderson & Darling
1952) since dirty cars lie in the tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

BINS = (30, 10)  # of the scores, by quantiles of clean and of dirty cars of the reference
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


def quantiles(clean: ArrayLike, dirty: ArrayLike) -> Floats:
    """Edges of BINS bins, or of fewer where scores are tied: quantiles of each kind, for those of all photos together
    would put dirty cars, where they are few, into a bin or two."""
    inner = [
        np.quantile(np.asarray(kind), np.linspace(0, 1, n + 1)[1:-1])
        for kind, n in zip((clean, dirty), BINS, strict=True)
    ]
    return np.unique(np.concatenate(inner))


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


class Explained(NamedTuple):
    """Whether a mere change of the share explains scores: the distance to the nearest mixture, the p-value of the three
    tests together, and of each: any change, dirty cars moved, clean cars moved."""

    distance: float
    p_value: float
    each: tuple[float, float, float]


def explained(
    clean: Scores, dirty: Scores, now: Scores, edges: ArrayLike, rng: np.random.Generator, draws: int = DRAWS
) -> Explained:
    """Is it a mere change of the share? `edges` are those of the bins. No p-value is below 3 / `draws` where one of the
    tests sees it alone."""
    distance, share = _distance(clean.bins, dirty.bins, now.bins)
    mixture = share * dirty.bins / dirty.photos + (1 - share) * clean.bins / clean.photos
    kinds = ((clean, clean.bins), (dirty, dirty.bins), (now, mixture))
    drawn = [rng.multinomial(int(kind.photos), bins / bins.sum(), draws) for kind, bins in kinds]
    counts = [np.vstack([kind.bins, draws]) for (kind, _), draws in zip(kinds, drawn, strict=True)]
    moves = np.abs(_moves(counts[0], counts[1], counts[2], _middles(edges)))
    measures = np.vstack([_distance(*counts)[0], moves])  # [3, 1 + draws], the first of what was found
    p_values = stats.rankdata(-measures, "max", axis=-1) / (1 + draws)
    least = p_values.min(0)
    any_change, dirty_moved, clean_moved = p_values[:, 0].tolist()
    return Explained(float(distance), float((least <= least[0]).mean()), (any_change, dirty_moved, clean_moved))


def nearer(dirty: ArrayLike) -> Floats:
    """p_clean of dirty cars that have moved towards clean ones by one standard deviation of their log-odds."""
    x = _logit(dirty)
    return np.asarray(special.expit(x + x.std()))


def photos_needed(clean: Scores, dirty: ArrayLike, share: float, edges: ArrayLike, level: float) -> int | None:
    """About how many photos it takes for `explained` to give a p-value of at most `level` in 80 % of cases, had dirty
    cars moved so. `dirty`: p_clean of the reference's. None where not even a million do: dirty cars are too few."""
    photos = np.geomspace(100, 1e6, 161)
    before, after = (Scores.from_photos(p, edges, 1).bins for p in (dirty, nearer(dirty)))
    now = (1 - share) * clean.bins / clean.photos + share * after / after.sum()
    z = _moves(clean.bins, before, photos[:, None] * now, _middles(edges))[0]
    seen = z >= stats.norm.isf(level / 6) + stats.norm.ppf(0.8)  # one of three tests, of two sides
    return int(photos[seen.argmax()]) if seen.any() else None


def _moves(clean: ArrayLike, dirty: ArrayLike, now: ArrayLike, x: Floats) -> Floats:
    """Counts `[B, K]` in bins at `x` `[K]` -> z `[2, B]`, the efficient scores of a tilt of the dirty, and of the clean
    bins: standard normal where neither kind has moved, above 0 where it has moved up."""
    counts = [np.asarray(kind, np.float64) for kind in (clean, dirty, now)]
    n_clean, n_dirty, n = (kind.sum(-1, keepdims=True) for kind in counts)
    low, high, here = (kind / kind.sum(-1, keepdims=True) for kind in counts)
    smooth = [(kind + 0.5) / (kind + 0.5).sum(-1, keepdims=True) for kind in counts[:2]]
    apart, share = high - low, np.full_like(n, 0.3)
    for _ in range(4):  # of weighted least squares, whose weights need the share
        parts = ((1 - share) * smooth[0], share * smooth[1])
        variance = (parts[0] + parts[1]) / n + (1 - share) * parts[0] / n_clean + share * parts[1] / n_dirty
        share = (apart * (here - low) / variance).sum(-1, keepdims=True)
        share = np.clip(share / (apart**2 / variance).sum(-1, keepdims=True), 0, 1)
    found = []
    for bins in (smooth[1], smooth[0]):
        tilt = bins * (x - (bins * x).sum(-1, keepdims=True))
        along = (tilt * apart / variance).sum(-1, keepdims=True) / (apart**2 / variance).sum(-1, keepdims=True)
        tilt = tilt - along * apart  # what a change of the share does not explain
        score = (tilt * (here - low - share * apart) / variance).sum(-1)
        found.append(score / np.sqrt((tilt**2 / variance).sum(-1) + 1e-30))
    return np.stack(found)


def _logit(p: ArrayLike) -> Floats:
    return np.asarray(special.logit(np.clip(np.asarray(p, np.float64), 1e-6, 1 - 1e-6)))


def _middles(edges: ArrayLike) -> Floats:
    """Where the bins lie in log-odds, `[K]`: midway between their edges, the first and last at their only one."""
    x = _logit(edges)
    return np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])


def _distance(clean: ArrayLike, dirty: ArrayLike, now: ArrayLike) -> tuple[Floats, Floats]:
    """Counts `[B, K]` -> the distance to the nearest mixture, and its share of dirty cars, `[B]`; or without B."""
    curves = [np.cumsum(counts, -1) / np.sum(counts, -1, keepdims=True) for counts in (clean, dirty, now)]
    low, high, here = (curve[..., :-1] for curve in curves)
    mixtures = (low + share * (high - low) for share in _SHARES)  # one at a time: they need less memory
    apart = np.stack([(np.abs(here - m) / np.sqrt(m * (1 - m) + 1e-3)).max(-1) for m in mixtures], -1)
    return apart.min(-1), _SHARES[apart.argmin(-1)]
