"""Other ways to choose T on validation photos, which ours is compared with."""

import warnings

import numpy as np
from numpy.typing import NDArray

from stages.common.bounds import tail
from stages.threshold.decision import Cuts
from tests.support.populations import CONFIDENCE, Bools, Floats, Scenario
from tests.support.promises import Method


def empirical(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    """The lowest threshold whose precision on the validation photos meets the target: no promise at all."""
    cuts = Cuts.of(clean, p)
    good = np.flatnonzero(cuts.clean >= scenario.target * cuts.total)
    return cuts.threshold(int(good[-1])) if len(good) else None


def ladder(scenario: Scenario, clean: Bools, p: Floats) -> tuple[Cuts, NDArray[np.int64], Floats]:
    """Cuts at ranks 5 % apart, from the first where a test can pass, and their exact p-values."""
    cuts = Cuts.of(clean, p)
    first = np.log(1 - CONFIDENCE) / np.log(scenario.target)
    ranks = first * 1.05 ** np.arange(0, max(np.log(len(cuts) / first) / np.log(1.05), 0) + 1)
    at = np.unique(np.searchsorted(cuts.total, np.minimum(np.ceil(ranks), len(cuts))))
    return cuts, at, tail(cuts.dirty[at], cuts.total[at], 1 - scenario.target)


def fixed_sequence(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    """A plain fixed sequence on that ladder, with a single start."""
    cuts, at, p_values = ladder(scenario, clean, p)
    passed = int(np.argmin(np.append(p_values <= 1 - CONFIDENCE, False)))
    return cuts.threshold(int(at[passed - 1])) if passed else None


def holm(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    """Bonferroni-Holm over that ladder."""
    cuts, at, p_values = ladder(scenario, clean, p)
    order = np.argsort(p_values)
    steps = p_values[order] <= (1 - CONFIDENCE) / np.arange(len(at), 0, -1)
    passed = order[: int(np.argmin(np.append(steps, False)))]
    return cuts.threshold(int(at[passed.max()])) if len(passed) else None


def mapie(procedure: str) -> Method:
    """MAPIE's controller, on its default grid of 100 thresholds; fixed_sequence: from 0.95 down, in steps of 0.01.

    split_fixed_sequence learns the order on one half of the photos and tests on the other.
    """
    from mapie.risk_control import BinaryClassificationController

    def method(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
        grid = {"list_predict_params": np.arange(0.95, 0, -0.01)} if procedure == "fixed_sequence" else {}
        controller = BinaryClassificationController(
            lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
            "precision",
            target_level=scenario.target,
            confidence_level=CONFIDENCE,
            fwer_method=procedure,
            **grid,
        )
        x, y = p[:, None], clean.astype(int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if procedure == "split_fixed_sequence":
                controller.learn_fixed_sequence_order(x[::2], y[::2])
                x, y = x[1::2], y[1::2]
            controller.calibrate(x, y)
        best = controller.best_predict_param
        return None if best is None else float(best)

    return method
