"""Validation photos drawn from known distributions of scores, so that the truth of a promise is known."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.threshold_populations import POPULATIONS, Bools, Floats, Population, knife_edge, normal

CONFIDENCE = 0.95


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
        return clean, self.show(looks_clean, own), car if self.per_car > 1 else None

    def show(self, looks_clean: Bools, quantile: Floats) -> Floats:
        """p of photos at these quantiles of the class that each looks like."""
        x = np.empty(len(quantile))
        x[looks_clean] = self.scores.clean.ppf(quantile[looks_clean])
        x[~looks_clean] = self.scores.dirty.ppf(quantile[~looks_clean])
        return self.scores.show(x)

    def precision(self, rates: tuple[float, float]) -> float:
        share = self.dirty if self.dirty_share is None else self.dirty_share
        right, wrong = (1 - share) * rates[0], share * rates[1]
        return right / (right + wrong) if right + wrong > 0 else 1.0

    def precision_dirty(self, threshold: float) -> float:
        """The true precision of dirty among p < threshold, at the share of the validation photos."""
        clean, dirty = self.scores.rates(threshold)
        right, wrong = self.dirty * (1 - dirty), (1 - self.dirty) * (1 - clean)
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


FIGURES = [
    Scenario(normal(3.0), 720, 1 / 6, 0.95, label="600 clean / 120 dirty, 3 sigma"),
    Scenario(normal(2.2), 720, 1 / 6, 0.95, label="600 clean / 120 dirty, 2.2 sigma"),
    Scenario(normal(2.2), 370, 12 / 37, 0.95, label="250 clean / 120 dirty, 2.2 sigma"),
]

# 15 % of 69,000 clean and 2,300 dirty photos, and a model of AUC 0.98.
FLEET = [
    Scenario(normal(2.9), 10_695, 345 / 10_695, 0.95, max_false_clean_rate=limit, label="10,350 clean / 345 dirty")
    for limit in (0.05, 0.02, None)
]

BOTH = [
    Scenario(normal(2.2), 720, 0.4, 0.9, label="432 clean / 288 dirty, 2.2 sigma"),
    Scenario(normal(1.8), 2000, 0.5, 0.9, label="1000 clean / 1000 dirty, 1.8 sigma"),
]

FORETOLD = [
    FIGURES[2],
    Scenario("normal", 100, 0.5, 0.9),
    Scenario("normal", 200, 0.3, 0.95),
    Scenario("skewed", 500, 0.3, 0.95),
    Scenario("skewed", 100, 0.5, 0.9),
    Scenario("skewed", 500, 0.1, 0.95, dirty_share=0.3),
    Scenario("overconfident", 100, 0.5, 0.9),
    Scenario("mislabelled", 300, 0.3, 0.95),
    Scenario(normal(2.9), 1000, 0.04, 0.95, max_false_clean_rate=0.05, label="1000, dirty 4%, 2.9 sigma"),
    replace(FLEET[0], max_false_clean_rate=0.005),
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
        (100, 0.2, 0.9),
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
