"""The thresholds of cars that are seen in several photos: a car scores what its dirtiest view scores."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.inference.verdict.rule import Rule
from stages.common.bounds import units_for
from stages.common.rates import Outcome, outcome, verdicts
from stages.threshold.choose import choose_threshold
from stages.threshold.params import ThresholdParams

VIEWS = (1, 2, 3, 4)
ANY = "any"
OUTCOME = ("dirty_as_clean", "precision_clean", "recall_clean", "false_clean_rate")


@dataclass(frozen=True)
class CarThreshold:
    """JSON-ready. The promise is `certified`: of the cars that are called clean by so many photos, with probability >=
    confidence at least target_precision_clean are clean. It is one promise for each number of views."""

    threshold: float  # the least p_clean among a car's photos at or above this is clean
    certified: bool
    reason: str | None  # in words, where it is not certified
    cars: int  # in val that have so many photos
    dirty: int  # of them
    recall: float | None


class Seen(NamedTuple):
    """Cars of which so many photos are looked at, `[C]` each."""

    is_clean: NDArray[np.bool_]  # by all photos of the car, also those that are not looked at
    lowest: NDArray[np.float64]  # the least p_clean of those that are


def seen_in_views(
    is_clean: NDArray[np.bool_],
    p_clean: NDArray[np.float64],
    cars: NDArray[np.str_],
    usable: NDArray[np.bool_] | slice = slice(None),
) -> dict[str, Seen] | None:
    """The cars with 1 to 4 usable photos and with any number, by these; None where no car has two. Arrays `[N]`.

    A car is dirty if a photo of it is, usable or not. The photos that stand for a car are drawn from a fixed seed,
    blind to label and score; for `any` it is all of them.
    """
    names, car = np.unique(cars, return_inverse=True)
    clean_car = np.bincount(car, weights=~is_clean) == 0
    car, p_clean = car[usable], p_clean[usable]
    count = np.bincount(car, minlength=len(names))
    if count.max(initial=0) < 2:
        return None
    shuffled = np.random.default_rng(0).permutation(len(car))
    order = shuffled[np.argsort(car[shuffled], kind="stable")]  # photos by car, at random within each
    turn = np.arange(len(car)) - np.repeat(np.cumsum(count) - count, count)
    found = {}
    for views, least, most in (*((str(k), k, k) for k in VIEWS), (ANY, 1, len(car))):
        seen, taken = count >= least, order[turn < most]
        lowest = np.full(len(names), np.inf)
        np.minimum.at(lowest, car[taken], p_clean[taken])
        found[views] = Seen(clean_car[seen], lowest[seen])
    return found


def car_thresholds(seen: dict[str, Seen], params: ThresholdParams, *, foretell: bool = True) -> dict[str, CarThreshold]:
    """The threshold for each number of views, for several not below that for any number: nothing tells whether four
    photos show four sides or one. foretell: as in `choose_threshold`."""
    found = {views: _certify(*cars, params, foretell) for views, cars in seen.items()}
    for views in set(found) - {"1", ANY}:
        found[views] = _at_least(found.get(ANY, found[views]).threshold, found[views], seen[views])
    return found


def _at_least(least: float, one: CarThreshold, cars: Seen) -> CarThreshold:
    """A stricter threshold than a certified one is certified as well: see fixed_sequence."""
    if not one.certified or one.threshold >= least:
        return one
    return replace(one, threshold=least, recall=float((cars.lowest[cars.is_clean] >= least).mean()))


def car_outcomes(seen: dict[str, Seen], thresholds: dict[str, CarThreshold]) -> dict[str, Outcome]:
    """How the thresholds turn out on other cars, by the number of views; nothing where no car has so many."""
    found = {}
    for views, cars in seen.items():
        if len(cars.lowest):
            rates = outcome(cars.is_clean, verdicts(Rule(thresholds[views].threshold), cars.lowest))
            counts = {"cars": len(cars.lowest), "dirty": int((~cars.is_clean).sum())}
            found[views] = counts | {name: rates[name] for name in OUTCOME}
    return found


def _certify(
    is_clean: NDArray[np.bool_], lowest: NDArray[np.float64], params: ThresholdParams, foretell: bool
) -> CarThreshold:
    cars, dirty = len(is_clean), int((~is_clean).sum())
    least = units_for(1 - params.target_precision_clean, 1 - params.confidence_each)
    if cars < least or not 0 < dirty < cars:
        short = (
            f"{cars} cars in val, {dirty} of them dirty, have so many photos; at least {least}, some dirty, are needed"
        )
        return CarThreshold(1.0, False, short, cars, dirty, None)
    one = choose_threshold(
        is_clean, lowest, target_precision=params.target_precision_clean, confidence=params.confidence_each,
        dirty_share=params.dirty_share, max_false_clean_rate=params.max_false_clean_rate,
        foretell=foretell,
    )  # fmt: skip
    reason = None if one.reason is None else one.reason.replace("photos", "cars")
    return CarThreshold(one.threshold, one.certified, reason, cars, dirty, one.recall)
