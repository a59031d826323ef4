"""Ways to choose T on validation photos: ours, and those it is compared with."""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from benchmarks.threshold_populations import Bools, Floats
from benchmarks.threshold_scenarios import CONFIDENCE, Scenario
from stages.common.bounds import tail
from stages.threshold import Decision, choose_threshold
from stages.threshold.cuts import Cuts

Method = Callable[[Scenario, Bools, Floats, NDArray[np.int64] | None], float | None]


def promised(
    scenario: Scenario,
    clean: Bools,
    p: Floats,
    cars: NDArray[np.int64] | None = None,
    confidence: float = CONFIDENCE,
    foretell: bool = False,
) -> Decision:
    """What the scenario's promise comes to on these photos."""
    return choose_threshold(
        clean,
        p,
        target_precision=scenario.target,
        confidence=confidence,
        dirty_share=scenario.dirty_share,
        groups=cars,
        max_false_clean_rate=scenario.max_false_clean_rate,
        foretell=foretell,
    )


def ours(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    decision = promised(scenario, clean, p, cars)
    return decision.threshold if decision.certified else None


def ours_calibrated(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    """As the pipeline does it: calibrate and choose on the same labels; the threshold is read back on the raw scale."""
    logit = special.logit(np.clip(p, 1e-12, 1 - 1e-12))
    slope, shift = logistic(logit, clean)
    threshold = ours(scenario, clean, special.expit(slope * logit + shift), cars)
    return None if threshold is None else float(special.expit((special.logit(threshold) - shift) / slope))


def logistic(logit: Floats, clean: Bools) -> tuple[float, float]:
    """Slope and shift of a logistic calibration, the most likely ones with a slight pull to (1, 0)."""

    def loss(fitted: Floats) -> tuple[float, Floats]:
        odds = fitted[0] * logit + fitted[1]
        wrong = special.expit(odds) - clean
        pull = 0.01 * (fitted - (1, 0))
        likelihood = np.logaddexp(0, np.where(clean, -odds, odds)).sum()
        return likelihood + 0.5 * (pull * (fitted - (1, 0))).sum(), np.array([wrong @ logit, wrong.sum()]) + pull

    slope, shift = optimize.minimize(loss, (1.0, 0.0), jac=True, method="BFGS").x
    return float(slope), float(shift)


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
    from mapie.risk_control import BinaryClassificationController  # type: ignore[import-untyped]

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
