"""Validation photos drawn from known distributions of scores, so that the truth of a promise is known."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

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
