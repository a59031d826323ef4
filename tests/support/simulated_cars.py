"""Simulated cars in several photos, whose views are correlated; and what a threshold does on a million of them.

A fifth is dirty. Each side of a dirty car shows it with probability 0.7, and at least one side does. The scores of one
car's photos share half of their variance.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stages.threshold.cars import car_thresholds
from stages.threshold.params import ThresholdParams

DIRTY, SHOWS, SHARED, APART = 0.2, 0.7, 0.5, 3.0  # APART: between the mean logits of clean and dirty views
POPULATION = 1_000_000

Cars = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.str_]]


def draw(rng: np.random.Generator, cars: int, views: int) -> Cars:
    """Photos of simulated cars, `[cars * views]` each: is_clean, p_clean, car."""
    dirty = rng.random(cars) < DIRTY
    shows = dirty[:, None] & (rng.random((cars, views)) < SHOWS)
    shows[dirty & ~shows.any(1), 0] = True
    noise = np.sqrt(SHARED) * rng.normal(size=(cars, 1)) + np.sqrt(1 - SHARED) * rng.normal(size=(cars, views))
    logit = APART * (0.5 - shows) + noise
    return ~shows.ravel(), expit(logit.ravel()), np.repeat(np.arange(cars), views).astype(str)


@cache
def _population(views: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    is_clean, p_clean, _ = draw(np.random.default_rng(10**6), POPULATION, views)
    clean: NDArray[np.bool_] = np.all(is_clean.reshape(-1, views), axis=1)
    return clean, p_clean.reshape(-1, views).min(1)


def in_production(threshold: float, views: int) -> tuple[float, float]:
    """Precision and recall of clean at a threshold on the least p_clean, over a million cars."""
    is_clean, lowest = _population(views)
    passed = lowest >= threshold
    return float(is_clean[passed].mean()) if passed.any() else 1.0, float(passed[is_clean].mean())


def violated(rng: np.random.Generator, cars: int, views: int, params: ThresholdParams) -> bool:
    """Whether a certified threshold of one draw breaks its promise."""
    found = car_thresholds(*draw(rng, cars, views), params, foretell=False)
    assert found is not None
    one = found[str(views)]
    return one.certified and in_production(one.threshold, views)[0] < params.target_precision_clean
