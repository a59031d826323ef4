"""Does the threshold keep its promise, and what does the promise cost? Simulated, where the truth is known.

    python -m benchmarks.threshold_coverage [--draws 2000] [--seconds 900] [--out FILE]

Needs `pip install -r benchmarks/requirements.txt -c constraints.txt`.

Per scenario: the share of draws in which a certified T breaks the promise (to be held against 1 - confidence = 0.05
and its simulation error), the share of draws not certified, and the mean recall of clean as a fraction of an
oracle's that knows the distribution. Draws without a certified T count as recall 0, for every method.
"""

import argparse
import importlib
import time
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from stages.common.reports import write_bytes
from stages.threshold import choose_threshold
from stages.threshold.bounds import tail
from stages.threshold.cuts import Cuts

CONFIDENCE = 0.95
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


@dataclass(frozen=True)
class Scenario:
    population: str | Population
    n: int
    dirty: float  # share among the validation photos
    target: float
    dirty_share: float | None = None
    per_car: int = 1  # up to so many photos of a car, alike
    alike: float = 0.5  # correlation of the scores of one car
    max_false_clean_rate: float | None = None
    fixed_counts: bool = False  # both classes drawn in fixed numbers, instead of photos at random
    calibrated: bool = False  # a logistic calibration fitted on the same labels comes between
    label: str = ""

    @property
    def scores(self) -> Population:
        return POPULATIONS[self.population] if isinstance(self.population, str) else self.population

    def draw(self, rng: np.random.Generator) -> tuple[Bools, Floats, NDArray[np.int64] | None]:
        """is_clean [N], p [N], car ids [N]."""
        car = np.arange(self.n)
        if self.per_car > 1:
            car = np.repeat(car, rng.integers(1, self.per_car + 1, self.n))[: self.n]
        clean = (
            (np.arange(self.n) >= round(self.dirty * self.n)) if self.fixed_counts else rng.random(self.n) >= self.dirty
        )
        clean, shared = clean[car], rng.random(self.n)[car]
        own = rng.random(self.n)
        if self.per_car > 1:  # a Gaussian copula: any margin, alike within a car
            mixed = np.sqrt(self.alike) * special.ndtri(shared) + np.sqrt(1 - self.alike) * special.ndtri(own)
            own = special.ndtr(mixed)
        looks_clean = clean | (rng.random(self.n) < self.scores.mislabelled)
        x = np.empty(self.n)
        x[looks_clean] = self.scores.clean.ppf(own[looks_clean])
        x[~looks_clean] = self.scores.dirty.ppf(own[~looks_clean])
        return clean, self.scores.show(x), car if self.per_car > 1 else None

    def precision(self, rates: tuple[float, float]) -> float:
        share = self.dirty if self.dirty_share is None else self.dirty_share
        right, wrong = (1 - share) * rates[0], share * rates[1]
        return right / (right + wrong) if right + wrong > 0 else 1.0

    def keeps(self, threshold: float) -> bool:
        rates = self.scores.rates(threshold)
        within = self.max_false_clean_rate is None or rates[1] <= self.max_false_clean_rate + 1e-9
        return within and self.precision(rates) >= self.target - 1e-9

    def oracle(self) -> float:
        """The best recall that keeps the promise."""
        grid = np.append(0.0, special.expit(self.scores.slope * np.linspace(-12, 12, 4001)))
        if self.scores.step:
            grid = np.arange(0, 1 + self.scores.step, self.scores.step)
        lowest = bisect_left(grid, True, key=self.keeps)
        return self.scores.rates(float(grid[lowest]))[0] if lowest < len(grid) else 0.0


@dataclass(frozen=True)
class Outcome:
    violations: float
    refused: float
    recall: float  # mean, as a fraction of the oracle's


Method = Callable[[Scenario, Bools, Floats, NDArray[np.int64] | None], float | None]


def ours(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    decision = choose_threshold(
        clean,
        p,
        target_precision=scenario.target,
        confidence=CONFIDENCE,
        dirty_share=scenario.dirty_share,
        groups=cars,
        max_false_clean_rate=scenario.max_false_clean_rate,
    )
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


def simulate(scenario: Scenario, draws: int, method: Method | None = None, seed: int = 0) -> Outcome:
    method = method or (ours_calibrated if scenario.calibrated else ours)
    rng, best = np.random.default_rng(seed), scenario.oracle()
    violations, refused, recalls = 0, 0, 0.0
    for _ in range(draws):
        threshold = method(scenario, *scenario.draw(rng))
        refused += threshold is None
        if threshold is not None:
            violations += not scenario.keeps(threshold)
            recalls += scenario.scores.rates(threshold)[0]
    return Outcome(violations / draws, refused / draws, recalls / draws / best if best else float("nan"))


FIGURES = [
    Scenario(normal(3.0), 720, 1 / 6, 0.95, label="600 clean / 120 dirty, 3 sigma"),
    Scenario(normal(2.2), 720, 1 / 6, 0.95, label="600 clean / 120 dirty, 2.2 sigma"),
    Scenario(normal(2.2), 370, 12 / 37, 0.95, label="250 clean / 120 dirty, 2.2 sigma"),
]

KNIFE_EDGE = [
    Scenario(knife_edge(0.95, 0.3), 100, 0.3, 0.95, label="knife edge, n=100, dirty 30%, target 0.95"),
    Scenario(knife_edge(0.95, 0.3), 500, 0.3, 0.95, label="knife edge, n=500, dirty 30%, target 0.95"),
    Scenario(knife_edge(0.9, 0.2), 100, 0.3, 0.9, 0.2, label="knife edge, n=100, dirty 30%, target 0.9"),
    Scenario(knife_edge(0.95, 0.1), 500, 0.3, 0.95, 0.1, label="knife edge, n=500, dirty 30%, target 0.95"),
]


def catalogue() -> Iterator[Scenario]:
    yield from FIGURES
    yield from (replace(figure, fixed_counts=True) for figure in FIGURES)
    sizes = [
        (100, 0.1, 0.9),
        (100, 0.5, 0.9),
        (500, 0.3, 0.95),
        (2000, 0.1, 0.95),
        (2000, 0.03, 0.99),
        (20000, 0.03, 0.99),
    ]
    for name in POPULATIONS:
        yield from (Scenario(name, n, dirty, target) for n, dirty, target in [*sizes, (20000, 0.5, 0.95)])
        elsewhere = [(100, 0.3, 0.9, 0.2), (500, 0.3, 0.95, 0.1), (2000, 0.1, 0.95, 0.3), (20000, 0.03, 0.98, 0.1)]
        yield from (Scenario(name, n, dirty, target, dirty_share=share) for n, dirty, target, share in elsewhere)
        yield Scenario(name, 2000, 0.3, 0.95, per_car=5)
        yield Scenario(name, 2000, 0.3, 0.95, per_car=5, dirty_share=0.1)
    yield from KNIFE_EDGE
    yield Scenario("normal", 2000, 0.3, 0.95, per_car=10, alike=0.95)
    yield Scenario("normal", 2000, 0.03, 0.95, max_false_clean_rate=0.2)
    yield Scenario("normal", 2000, 0.1, 0.95, dirty_share=0.1, max_false_clean_rate=0.2)
    yield Scenario("normal", 500, 0.3, 0.95, calibrated=True)
    yield Scenario("overconfident", 500, 0.3, 0.95, calibrated=True)


def describe(scenario: Scenario) -> str:
    extras = [
        f"at share {scenario.dirty_share:g}" if scenario.dirty_share else "",
        f"cars of 1-{scenario.per_car}, r={scenario.alike:g}" if scenario.per_car > 1 else "",
        f"false clean <= {scenario.max_false_clean_rate:g}" if scenario.max_false_clean_rate else "",
        "fixed counts" if scenario.fixed_counts else "",
        "calibrated on the same" if scenario.calibrated else "",
    ]
    name = (
        scenario.label
        or f"{scenario.population}, n={scenario.n}, dirty {scenario.dirty:.0%}, target {scenario.target:g}"
    )
    return ", ".join([name, *filter(None, extras)])


def report(draws: int, seconds: float) -> Iterator[str]:
    """The tables, line by line; scenarios that the time does not allow are named as such."""
    start, error = time.monotonic(), np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)
    yield f"{draws} draws each; violations may reach {1 - CONFIDENCE:.3f}, simulation error {error:.4f} (one sigma)"
    yield f"{'scenario':<76}{'violated':>9}{'refused':>9}{'recall/oracle':>15}"
    for scenario in catalogue():
        if time.monotonic() - start > seconds:
            yield f"{describe(scenario):<76}  not run: --seconds {seconds:g} are over"
            continue
        yield line(describe(scenario), simulate(scenario, draws))
    methods = {
        "dirtycar": ours,
        "fixed sequence, one start": fixed_sequence,
        "Bonferroni-Holm": holm,
        "validation precision >= target": empirical,
        **{f"MAPIE {name}": mapie(name) for name in ("bonferroni_holm", "fixed_sequence", "split_fixed_sequence")},
    }
    for scenario in FIGURES:
        yield f"\n{describe(scenario)}: side by side"
        for name, method in methods.items():
            few = min(draws, 100) if name == "MAPIE split_fixed_sequence" else draws  # half a second each
            yield line(f"  {name} ({few} draws)", simulate(scenario, few, method))


def line(name: str, outcome: Outcome) -> str:
    return f"{name:<76}{outcome.violations:>9.4f}{outcome.refused:>9.3f}{outcome.recall:>15.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=900, help="no further scenario is started after so many")
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    importlib.import_module("mapie.risk_control")  # whether it is missing is to be known now, not in 15 minutes
    lines = []
    for text in report(arguments.draws, arguments.seconds):
        print(text, flush=True)
        lines.append(text)
    if arguments.out:
        write_bytes(arguments.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
