"""`python -m benchmarks.cars`: does the promise about cars hold, and what does it cost against a rule for photos?

The cars are simulated (tests/support/simulated_cars.py); a car is dirty if one of its sides is. Either every side of a
car has a photo, one to four of them in `any`; or a car has four sides of which so many are looked at. A promise is
violated where a draw of val gives a threshold at which less than the target of the cars called clean are clean, of a
million. A rule that is not certified calls no car clean.

The rule for photos promises the same: of k views each must reach the T that is certified, on one photo of each car, for
a precision of 1 - (1 - target) / k. That does by the union bound, as a view that passes makes no other likelier dirty;
it says nothing of sides that are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp
from scipy.stats import binomtest

from stages.common.base.params import load
from stages.threshold.cars import ANY, VIEWS, Seen, car_thresholds
from stages.threshold.choose import choose_threshold
from stages.threshold.params import Params, ThresholdParams
from tests.support.simulated_cars import POPULATION, Aggregate, Bools, Floats, Population, draw_cars, minimum

SIDES = 4


def two_lowest(logits: Floats) -> Floats:
    """The mean of the two lowest, or the only one."""
    low = np.sort(logits, axis=1)[:, :2]
    return np.asarray(np.where(np.isinf(low[:, -1]), low[:, 0], low.mean(1)))


def soft_minimum(logits: Floats) -> Floats:
    """-log sum exp(-logit): the odds of dirty add up."""
    return np.asarray(-logsumexp(-logits, axis=1))


AGGREGATES: dict[str, Aggregate] = {"minimum": minimum, "two lowest": two_lowest, "soft minimum": soft_minimum}
PHOTO = "photo rule"
HEADER = ("views", "certified", "violations", "95 % interval", *AGGREGATES, PHOTO, "its precision")


class Looked(NamedTuple):
    """Cars of which some views are looked at, `[C]` and `[C, K]`."""

    is_clean: Bools
    shows: Bools
    logit: Floats  # inf: not taken


def look(rng: np.random.Generator, cars: int, shows: float, *, hidden: bool) -> Iterator[tuple[str, Looked]]:
    """The cars for each number of views. hidden: they have other sides, which are known in val."""
    for views in VIEWS:
        drawn = draw_cars(rng, cars, SIDES if hidden else views, shows)
        yield str(views), Looked(drawn.is_clean, drawn.shows[:, :views], drawn.logit[:, :views])
    if not hidden:
        drawn = draw_cars(rng, cars, SIDES, shows)
        taken = np.arange(SIDES) < rng.integers(1, SIDES + 1, (cars, 1))
        seen = drawn.shows & taken
        yield ANY, Looked(~seen.any(1), seen, np.where(taken, drawn.logit, np.inf))


def certified(views: str, val: Looked, params: ThresholdParams) -> Iterator[tuple[str, float | None]]:
    """Each rule's threshold on sigmoid(score); None where it is not certified."""
    for name, aggregate in AGGREGATES.items():
        one = car_thresholds({views: Seen(val.is_clean, expit(aggregate(val.logit)))}, params, foretell=False)[views]
        yield name, one.threshold if one.certified else None
    target = 1 - (1 - params.target_precision_clean) / (SIDES if views == ANY else int(views))
    photo = choose_threshold(
        ~val.shows[:, 0], expit(val.logit[:, 0]), target_precision=target, confidence=params.confidence_each,
        foretell=False,
    )  # fmt: skip
    yield PHOTO, photo.threshold if photo.certified else None


def table(draws: int, cars: int, shows: float, params: ThresholdParams, *, hidden: bool) -> Iterator[tuple[str, ...]]:
    """The rows, one for each number of views."""
    truth = {
        (views, name): Population(all_cars.is_clean, aggregate(all_cars.logit))
        for views, all_cars in look(np.random.default_rng(10**6), POPULATION, shows, hidden=hidden)
        for name, aggregate in AGGREGATES.items()
    }
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}  # precision and recall
    for seed in range(draws):
        for views, val in look(np.random.default_rng(seed), cars, shows, hidden=hidden):
            for name, threshold in certified(views, val, params):
                population = truth[views, "minimum" if name == PHOTO else name]
                turned_out = (np.nan, 0.0) if threshold is None else population.at(threshold)
                found.setdefault(views, {}).setdefault(name, []).append(turned_out)
    for views, rules in found.items():
        precision, recall = np.moveaxis(np.array(list(rules.values())), 2, 0)  # [rule, draw] each
        broken = int((precision[0] < params.target_precision_clean).sum())
        interval = binomtest(broken, draws).proportion_ci()
        told = f"{1 - np.isnan(precision[0]).mean():.2f}", f"{broken / draws:.3f}"
        photo = precision[-1][~np.isnan(precision[-1])]
        recalls = [f"{value:.3f}" for value in recall.mean(1)]
        yield (
            views,
            *told,
            f"{interval.low:.3f} to {interval.high:.3f}",
            *recalls,
            f"{photo.mean():.3f}" if len(photo) else "-",
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--cars", type=int, default=400, help="in val")
    parser.add_argument("--shows", type=float, default=0.7, help="how likely a side of a dirty car shows it")
    parser.add_argument("--hidden", action="store_true", help="of four sides only so many are looked at")
    args = parser.parse_args()
    params = replace(load(Params).threshold, tries=1)
    hidden = " --hidden" if args.hidden else ""
    print(f"python -m benchmarks.cars --draws {args.draws} --cars {args.cars} --shows {args.shows:g}{hidden}")
    for cells in (HEADER, *table(args.draws, args.cars, args.shows, params, hidden=args.hidden)):
        print("".join(cell.rjust(16) for cell in cells), flush=True)


if __name__ == "__main__":
    main()
