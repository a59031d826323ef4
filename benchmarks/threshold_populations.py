"""Distributions of the scores of clean and dirty photos, with the true rates at which a threshold accepts them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Scores(Protocol):
    """A distribution of scores, as in scipy.stats."""

    def sf(self, x: float) -> float: ...

    def ppf(self, q: Floats) -> Floats: ...


@dataclass(frozen=True)
class Population:
    """Latent scores x of each class, shown as p = sigmoid(slope * (x - centre)), rounded to `step`."""

    clean: Scores
    dirty: Scores
    slope: float = 1.0
    centre: float = 0.0
    step: float = 0.0  # 0: not rounded
    mislabelled: float = 0.0  # share of the dirty photos that look like clean ones

    def show(self, x: Floats) -> Floats:
        p = np.asarray(special.expit(self.slope * (x - self.centre)), dtype=np.float64)
        return np.round(p / self.step) * self.step if self.step else p

    def rates(self, threshold: float) -> tuple[float, float]:
        """True rates at which clean and dirty photos are accepted."""
        if self.step:  # the lowest p that is rounded to the threshold or above
            threshold = (np.ceil(threshold / self.step - 1e-6) - 0.5) * self.step
        x = special.logit(np.clip(threshold, 0, 1)) / self.slope + self.centre
        clean, dirty = self.clean.sf(x), self.dirty.sf(x)
        return float(clean), float((1 - self.mislabelled) * dirty + self.mislabelled * clean)


@dataclass(frozen=True)
class Ranked:
    """Log-odds of 1 - rank / 2, where a share mass[i] of the photos has a rank <= rank[i], linear in between."""

    rank: tuple[float, ...]
    mass: tuple[float, ...]

    def sf(self, x: float) -> float:
        return float(np.interp(2 * special.expit(-x), self.rank, self.mass))

    def ppf(self, q: Floats) -> Floats:
        return np.asarray(special.logit(1 - np.interp(1 - q, self.mass, self.rank) / 2), dtype=np.float64)


def knife_edge(target: float, share: float) -> Population:
    """The hardest case. Clean photos rank from 0 to 1, evenly; no dirty one lies above 0.54, and between 0.54 and 0.6
    so many that the precision falls to just below the target. There it stays: from 0.6 on every threshold breaks the
    promise, and none looks bad.
    """
    odds = (1 - share) / share * (1 - target) / target * (1 + 1e-6)
    return Population(Ranked((0, 1), (0, 1)), Ranked((0.54, 0.6, 1, 2), (0, 0.6 * odds, odds, 1)))


def normal(apart: float, **shown: float) -> Population:
    return Population(stats.norm(apart), stats.norm(0), **shown)


POPULATIONS = {
    "normal": normal(2.5),
    "skewed": Population(stats.genlogistic(0.4, loc=4), stats.genlogistic(4, loc=-2.5)),
    "ties": normal(2.5, step=0.05),
    "overconfident": normal(2.5, slope=8.0, centre=1.2, step=0.001),
    "mislabelled": normal(3.5, mislabelled=0.02),
}
