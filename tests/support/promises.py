"""How often thresholds chosen on simulated validation photos keep their promise, and what the promise costs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stages.common.calibration import fit
from stages.threshold.choose import choose_low_threshold, choose_threshold
from stages.threshold.decision import Decision
from tests.support.populations import CONFIDENCE, Bools, Floats, Scenario

Method = Callable[[Scenario, Bools, Floats, NDArray[np.int64] | None], float | None]


def promised(
    scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None = None, *,
    confidence: float = CONFIDENCE, foretell: bool = False,
) -> Decision:  # fmt: skip
    """What the scenario's promise comes to on these photos."""
    return choose_threshold(
        clean, p, target_precision=scenario.target, confidence=confidence, dirty_share=scenario.dirty_share,
        groups=cars, max_false_clean_rate=scenario.max_false_clean_rate, foretell=foretell,
    )  # fmt: skip


def ours(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    decision = promised(scenario, clean, p, cars)
    return decision.threshold if decision.certified else None


def ours_calibrated(scenario: Scenario, clean: Bools, p: Floats, cars: NDArray[np.int64] | None) -> float | None:
    """As the pipeline does it: calibrate and choose on the same labels; the threshold is read back on the raw scale."""
    logit = special.logit(np.clip(p, 1e-12, 1 - 1e-12))
    fitted = fit(logit, clean)
    threshold = ours(scenario, clean, fitted.p_clean(logit), cars)
    return (
        None if threshold is None else float(special.expit((special.logit(threshold) - fitted.offset) / fitted.scale))
    )


@dataclass(frozen=True)
class Outcome:
    violations: float
    refused: float
    recall: float  # mean, as a fraction of the oracle's


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


def best_of(scenario: Scenario, experiments: int, tries: int, draws: int, alike: float = 0.5) -> Outcome:
    """Equal models on the same photos, their scores `alike` correlated; the one with the highest certified recall."""
    rng = np.random.default_rng(0)
    violations, refused, recalls = 0, 0, 0.0
    for _ in range(draws):
        clean, shared = rng.random(scenario.n) >= scenario.dirty, rng.normal(size=scenario.n)
        decisions = []
        for _ in range(experiments):
            own = np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=scenario.n)
            p = scenario.show(clean, special.ndtr(own))
            decisions.append(promised(scenario, clean, p, confidence=1 - (1 - CONFIDENCE) / tries))
        best = max((one for one in decisions if one.certified), key=lambda one: one.recall or 0, default=None)
        refused += best is None
        if best is not None:
            violations += not scenario.keeps(best.threshold)
            recalls += scenario.scores.rates(best.threshold)[0]
    return Outcome(violations / draws, refused / draws, recalls / draws / scenario.oracle())


def both(scenario: Scenario, target_dirty: float, split: bool, draws: int) -> Outcome:
    """T_clean and T_low of the same photos: how often either breaks its promise; the recall is that of clean."""
    rng = np.random.default_rng(0)
    confidence = 1 - (1 - CONFIDENCE) / (2 if split else 1)
    violations, refused, recalls = 0, 0, 0.0
    for _ in range(draws):
        clean, p, _ = scenario.draw(rng)
        high = promised(scenario, clean, p, confidence=confidence)
        low = choose_low_threshold(
            clean, p, target_precision_dirty=target_dirty, confidence=confidence, t_clean=1.0, foretell=False
        )
        refused += not high.certified
        wrong = low.certified and scenario.precision_dirty(low.threshold) < target_dirty - 1e-9
        violations += wrong or (high.certified and not scenario.keeps(high.threshold))
        recalls += scenario.scores.rates(high.threshold)[0] if high.certified else 0
    return Outcome(violations / draws, refused / draws, recalls / draws / scenario.oracle())


@dataclass(frozen=True)
class Foretold:
    """Of the draws that were not certified: how often what was asked for then certified."""

    base: float  # share of draws that certify as they are
    cases: int
    hopeless: int  # in which no number was given
    right: float  # share of fresh val sets of the size that was asked for which certify
    more: float  # median of what was asked for, as a multiple of the dirty photos there were
    recall_error: float  # mean of the recall foretold - the recall that came


def foretell(scenario: Scenario, cases: int, fresh: int = 5, limit: int = 400) -> Foretold:
    """Draw until `cases` (at most `limit` draws) are not certified; `fresh` new draws judge what each asks for."""
    rng = np.random.default_rng(0)
    decisions, draws = list[Decision](), 0
    while len(decisions) < cases and draws < limit:
        draws += 1
        clean, p, _ = scenario.draw(rng)
        if clean.all() or (decision := promised(scenario, clean, p, foretell=True)).certified or decision.trivial:
            continue
        decisions.append(decision)
    told = [one for one in decisions if one.more_dirty is not None]
    hits, errors = [], []
    for one in told:
        dirty = one.n_dirty + (one.more_dirty or 0)
        n = dirty + round(one.n_clean * dirty / one.n_dirty)
        larger = replace(scenario, n=n, dirty=dirty / n, fixed_counts=True)
        for _ in range(fresh):
            later = promised(larger, *larger.draw(rng)[:2])
            hits.append(later.certified)
            errors += [(one.recall_with_more or 0) - (later.recall or 0)] if later.certified else []
    more = float(np.median([(one.more_dirty or 0) / one.n_dirty for one in told] or [np.nan]))
    hopeless, right, error = len(decisions) - len(told), np.mean(hits or [np.nan]), np.mean(errors or [np.nan])
    return Foretold(1 - len(decisions) / draws, len(decisions), hopeless, float(right), more, float(error))
