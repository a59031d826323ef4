"""`python -m benchmarks.cars`: does the promise about cars hold, and what does it cost against a rule for photos?

The cars are simulated (tests/support/simulated_cars.py). A promise is violated where a draw of val gives a threshold at
which less than the target of the cars called clean are clean, of a million. The rule for photos asks of every view the
T_clean that promises the same about one photo of each car.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from scipy.stats import binomtest

from stages.common.base.params import load
from stages.threshold.cars import car_thresholds
from stages.threshold.choose import choose_threshold
from stages.threshold.params import Params, ThresholdParams
from tests.support.simulated_cars import draw, in_production

HEADER = ("views", "certified", "violations", "95 % interval", "recall", "photo rule", "its precision")


def row(views: int, draws: int, cars: int, params: ThresholdParams) -> tuple[str, ...]:
    """Of one number of views: certified share, violations, mean recall against that of the rule for photos."""
    broken, certified = 0, 0
    found = np.empty((draws, 3))
    for seed in range(draws):
        is_clean, p_clean, car = draw(np.random.default_rng(seed), cars, views)
        thresholds = car_thresholds(is_clean, p_clean, car, params, foretell=False)
        assert thresholds is not None
        one = thresholds[str(views)]
        photo = choose_threshold(
            is_clean, p_clean, target_precision=params.target_precision_clean, confidence=params.confidence_each,
            groups=car, foretell=False,
        )  # fmt: skip
        precision, recall = in_production(one.threshold, views)
        certified += one.certified
        broken += one.certified and precision < params.target_precision_clean
        found[seed] = recall, *reversed(in_production(photo.threshold, views))
    interval = binomtest(broken, draws).proportion_ci()
    means = [f"{value:.3f}" for value in found.mean(0)]
    share = f"{broken / draws:.3f}"
    return str(views), f"{certified / draws:.2f}", share, f"{interval.low:.3f} to {interval.high:.3f}", *means


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--cars", type=int, default=400, help="in val")
    args = parser.parse_args()
    params = replace(load(Params).threshold, tries=1)
    print(f"python -m benchmarks.cars --draws {args.draws} --cars {args.cars}")
    for cells in (HEADER, *(row(views, args.draws, args.cars, params) for views in (2, 3, 4))):
        print("".join(cell.rjust(16) for cell in cells), flush=True)


if __name__ == "__main__":
    main()
