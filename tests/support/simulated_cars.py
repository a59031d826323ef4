"""Simulated cars in several photos, whose views are correlated; and what a threshold does on a million of them.

A fifth is dirty. Each side of a dirty car shows it with probability SHOWS, and at least one side does. The scores of
one car's photos share half of their variance.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from stages.threshold.cars import car_thresholds, seen_in_views
from stages.threshold.params import ThresholdParams

DIRTY, SHOWS, SHARED, APART = 0.2, 0.7, 0.5, 3.0  # APART: between the mean logits of clean and dirty views
POPULATION = 1_000_000

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Photos = tuple[Bools, Floats, NDArray[np.str_]]


class Cars(NamedTuple):
    """`[C, K]` each."""

    shows: Bools  # whether a view shows dirt
    logit: Floats

    @property
    def is_clean(self) -> Bools:
        """By all views, `[C]`."""
        return np.asarray(~self.shows.any(1))

    def photos(self) -> Photos:
        """is_clean, p_clean, car, `[C * K]` each."""
        cars, views = self.shows.shape
        return ~self.shows.ravel(), expit(self.logit.ravel()), np.repeat(np.arange(cars), views).astype(str)


def draw_cars(rng: np.random.Generator, cars: int, views: int, shows: float = SHOWS) -> Cars:
    """Simulated cars with so many photos."""
    dirty = rng.random(cars) < DIRTY
    found = dirty[:, None] & (rng.random((cars, views)) < shows)
    hidden = np.flatnonzero(dirty & ~found.any(1))
    found[hidden, rng.integers(views, size=len(hidden))] = True
    noise = np.sqrt(SHARED) * rng.normal(size=(cars, 1)) + np.sqrt(1 - SHARED) * rng.normal(size=(cars, views))
    return Cars(found, APART * (0.5 - found) + noise)


def draw(rng: np.random.Generator, cars: int, views: int) -> Photos:
    """Their photos."""
    return draw_cars(rng, cars, views).photos()


def minimum(logits: Floats) -> Floats:
    """The aggregate that the pipeline uses."""
    return np.asarray(logits.min(1))


class Population:
    """A million cars, all views of which are known, judged by some: precision and recall of clean at a threshold."""

    def __init__(self, is_clean: Bools, score: Floats) -> None:
        order = np.argsort(-score)
        self.score, self.clean = -score[order], np.cumsum(is_clean[order])

    def at(self, threshold: float) -> tuple[float, float]:
        """The threshold is one on sigmoid(score)."""
        passed = int(np.searchsorted(self.score, -logit(threshold), side="right"))
        if not passed:
            return 1.0, 0.0
        return float(self.clean[passed - 1] / passed), float(self.clean[passed - 1] / self.clean[-1])


@cache
def _population(views: int) -> Population:
    cars = draw_cars(np.random.default_rng(10**6), POPULATION, views)
    return Population(cars.is_clean, minimum(cars.logit))


def violated(rng: np.random.Generator, cars: int, views: int, params: ThresholdParams) -> bool:
    """Whether a certified threshold of one draw breaks its promise."""
    seen = seen_in_views(*draw(rng, cars, views))
    assert seen is not None
    one = car_thresholds(seen, params, foretell=False)[str(views)]
    return one.certified and _population(views).at(one.threshold)[0] < params.target_precision_clean
