"""`python -m benchmarks.cars`: does the promise about cars hold, and what does it cost against a rule for photos?

The cars are simulated (tests/support/simulated_cars.py); a car is dirty if one of its sides is. Either every side of a
car has a photo, one to four of them in `any`; or a car has four sides of which so many are looked at. A promise is
violated where a draw of val gives a threshold at which less than the target of the cars called clean are clean, of a
million. A rule that is not certified calls no car clean.

The rule for photos promises the same: of k views each must reach the T that is certified, on one photo of each car, for
a precision of 1 - (1 - target) / k. That does by the union bound, as a view that passes makes no other likelier dirty;
it says nothing of sides that are not looked at.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest

from stages.common.base.params import load
from stages.threshold.cars import ANY, VIEWS, Seen, car_thresholds
from stages.threshold.choose import choose_threshold
from stages.threshold.params import Params, ThresholdParams
from tests.support.simulated_cars import POPULATION, Bools, Floats, Population, draw_cars, minimum

SIDES = 4


HEADER = ("views", "certified", "violations", "95 % interval", "minimum", "photo rule", "its precision")


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


def certified(views: str, val: Looked, params: ThresholdParams) -> Iterator[float | None]:
    """The threshold of the minimum, and that of the rule for photos; None where it is not certified."""
    one = car_thresholds({views: Seen(val.is_clean, expit(minimum(val.logit)))}, params, foretell=False)[views]
    yield one.threshold if one.certified else None
    target = 1 - (1 - params.target_precision_clean) / (SIDES if views == ANY else int(views))
    photo = choose_threshold(
        ~val.shows[:, 0], expit(val.logit[:, 0]), target_precision=target, confidence=params.confidence_each,
        foretell=False,
    )  # fmt: skip
    yield photo.threshold if photo.certified else None


def table(draws: int, cars: int, shows: float, params: ThresholdParams, *, hidden: bool) -> Iterator[tuple[str, ...]]:
    """The rows, one for each number of views."""
    truth = {
        views: Population(all_cars.is_clean, minimum(all_cars.logit))
        for views, all_cars in look(np.random.default_rng(10**6), POPULATION, shows, hidden=hidden)
    }
    found: dict[str, list[list[tuple[float, float]]]] = {views: [] for views in truth}  # precision and recall
    for seed in range(draws):
        for views, val in look(np.random.default_rng(seed), cars, shows, hidden=hidden):
            thresholds = certified(views, val, params)
            found[views].append([(np.nan, 0.0) if at is None else truth[views].at(at) for at in thresholds])
    for views, rows in found.items():
        precision, recall = np.array(rows).T  # [rule, draw] each
        broken = int((precision[0] < params.target_precision_clean).sum())
        interval = binomtest(broken, draws).proportion_ci()
        told = f"{1 - np.isnan(precision[0]).mean():.2f}", f"{broken / draws:.3f}"
        span = f"{interval.low:.3f} to {interval.high:.3f}"
        photo = precision[1][~np.isnan(precision[1])]
        recalls = [f"{value:.3f}" for value in recall.mean(1)]
        yield views, *told, span, *recalls, f"{photo.mean():.3f}" if len(photo) else "-"


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
