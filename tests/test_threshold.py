"""The threshold keeps its promise, says what it cannot keep, and is defined everywhere."""

import json
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from stages.common.bounds import rate_high, rate_low, ratio_high, ratio_tail, tail, units_for
from stages.split_check.outlook import outlook
from stages.threshold.choose import choose_low_threshold, choose_threshold
from stages.threshold.decision import Cuts, Decision
from stages.threshold.fixed_sequence import Pooled, most_permissive_cut
from stages.threshold.scenarios import scenarios
from tests.support.populations import BOTH, FIGURES, FLEET, FORETOLD, KNIFE_EDGE, Scenario, describe
from tests.support.promises import best_of, both, foretell, simulate

PROMISE: dict[str, Any] = {"target_precision": 0.95, "confidence": 0.95}


def photos(n_clean: int, n_dirty: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clean = rng.permutation(np.arange(n_clean + n_dirty) < n_clean)
    return clean, special.expit(rng.normal(size=len(clean)) + apart * clean - apart / 2)


def choose(clean: np.ndarray, p: np.ndarray, **changed: Any) -> Decision:
    return choose_threshold(clean, p, **(PROMISE | changed))


# --- what a Decision says ---


@pytest.mark.parametrize("dirty_share", [None, 0.1, 0.4])
def test_a_certified_decision_describes_the_photos_at_its_threshold(dirty_share: float | None) -> None:
    clean, p = photos(600, 120, 3.0)
    decision = choose(clean, p, dirty_share=dirty_share)
    accepted = p >= decision.threshold
    assert decision.certified and decision.reason is None and not decision.trivial
    assert (decision.accepted_clean, decision.accepted_dirty) == ((accepted & clean).sum(), (accepted & ~clean).sum())
    assert decision.precision_low is not None and decision.precision is not None
    assert 0.95 <= decision.precision_low < decision.precision
    assert decision.recall == pytest.approx((accepted & clean).sum() / 600)
    assert decision.recall_low < decision.recall < decision.recall_high  # type: ignore[operator]
    assert decision.false_clean_rate < decision.false_clean_rate_high  # type: ignore[operator]


def test_without_a_proof_the_best_threshold_and_the_reason_are_given() -> None:
    decision = choose(*photos(60, 20, 1.5))
    assert not decision.certified
    assert decision.precision is not None and 0 < decision.threshold < 1
    assert decision.reachable_precision is not None and decision.reachable_precision < 0.95
    assert decision.more_dirty is not None and decision.more_dirty > 0 and 0 < (decision.recall_with_more or 0) < 1
    assert f"{decision.reachable_precision:g}" in str(decision.reason)
    assert f"{decision.more_dirty} more dirty photos" in str(decision.reason)
    assert choose(*photos(60, 20, 1.5), target_precision=decision.reachable_precision).certified


def test_scores_that_mislead_are_not_helped_by_more_photos() -> None:
    decision = choose(*photos(100, 100, -1.0))
    assert not decision.certified and decision.more_dirty is None
    assert decision.recall_with_more is None and "20 times as many" in str(decision.reason)


@pytest.mark.parametrize(("present", "missing"), [(True, "dirty"), (False, "clean")])
def test_a_missing_class_is_named_and_nothing_is_accepted(present: bool, missing: str) -> None:
    decision = choose(np.full(200, present), np.linspace(0.1, 0.9, 200))
    assert not decision.certified and decision.threshold == 1.0
    assert f"none of the 200 photos is {missing}" in str(decision.reason)
    json.dumps(asdict(decision), allow_nan=False)


def test_constant_scores_leave_one_cut() -> None:
    clean = np.arange(200) >= 40
    decision = choose(clean, np.full(200, 0.7))
    assert not decision.certified and decision.threshold == 0.0 and decision.precision == 0.8
    assert choose(np.arange(1000) >= 10, np.full(1000, 0.7)).trivial


# --- trivial targets, and the next constraint ---


def test_a_target_that_accepting_everything_meets_is_trivial_and_no_certificate() -> None:
    clean, p = photos(2000, 20, 2.0)
    for share in (None, 0.04):
        decision = choose(clean, p, dirty_share=share)
        assert decision.trivial and not decision.certified and decision.threshold == 0.0
        assert "trivial" in str(decision.reason) and decision.more_dirty is None
    assert decision.precision == decision.precision_low == pytest.approx(0.96)
    assert not choose(clean, p, dirty_share=0.3).trivial


def test_the_false_clean_rate_is_held_as_well() -> None:
    clean, p = photos(2000, 60, 3.0)
    free, held = choose(clean, p), choose(clean, p, max_false_clean_rate=0.1)
    assert free.trivial and not held.trivial and held.certified
    assert held.threshold > free.threshold
    assert held.false_clean_rate_high is not None and held.false_clean_rate_high <= 0.1


def test_a_false_clean_limit_that_alone_is_out_of_reach_is_named_alone() -> None:
    """60 dirty photos prove a limit of 0.049 at best, 0.03 takes 99: the precision is not what is missing."""
    clean, p = photos(2000, 60, 4.0)
    decision = choose(clean, p, max_false_clean_rate=0.03)
    assert not decision.certified and decision.accepted_dirty == 0 and (decision.recall or 0) > 0.1
    assert decision.reachable_precision is None and "precision" not in str(decision.reason)
    assert decision.reachable_false_clean_rate == pytest.approx(1 - 0.05 ** (1 / 60))
    assert decision.more_dirty is not None and 60 + decision.more_dirty >= 99
    assert "at most 0.03 of the dirty" in str(decision.reason)


def test_a_few_photos_that_no_score_mixes_up_are_blamed_on_no_score() -> None:
    decision = choose([True, False], [0.9, 0.1])
    assert decision.more_dirty is None and str(decision.reason).endswith(
        "20 times as many that score alike would hardly do"
    )


def test_a_target_below_all_that_are_tried_instead_is_compared_with_none() -> None:
    clean, p = photos(3, 6, 0.0)
    assert "a precision of 0.45 with" in str(choose(clean, p, target_precision=0.45).reason)


def test_what_it_takes_is_counted_in_cars() -> None:
    clean, p = photos(60, 20, 1.5)
    cars = np.repeat(np.arange(80), 3)
    decision = choose(np.repeat(clean, 3), np.repeat(p, 3), groups=cars)
    assert f"{decision.more_dirty} more dirty cars" in str(decision.reason)
    assert decision.more_dirty == choose(clean, p).more_dirty


# --- only ranks count, cars are counted once, rounding flips nothing ---


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=1, max_size=300),
    target=st.sampled_from([0.5, 0.8, 0.95]),
    dirty_share=st.sampled_from([None, 0.1, 0.5]),
)
def test_any_photos_give_a_consistent_decision(
    data: list[tuple[bool, int]], target: float, dirty_share: float | None
) -> None:
    clean, rank = np.array([c for c, _ in data]), np.array([r for _, r in data])
    asked: dict[str, Any] = {"target_precision": target, "confidence": 0.9, "dirty_share": dirty_share}
    one = choose_threshold(clean, rank / 30, **asked, foretell=False)
    other = choose_threshold(clean[::-1], special.expit(rank[::-1] * 0.7 - 3), **asked, foretell=False)
    assert [one.certified, one.accepted_clean, one.accepted_dirty] == [
        other.certified, other.accepted_clean, other.accepted_dirty
    ]  # fmt: skip
    json.dumps(asdict(one), allow_nan=False)
    assert ((rank / 30 >= one.threshold) & clean).sum() == one.accepted_clean or one.threshold == 1.0
    if one.certified:
        assert one.precision_low is not None and one.precision_low >= target - 1e-6
    else:
        assert one.reason


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.2, 5))
def test_a_cut_between_distinct_scores_survives_float32(seed: int, spread: float) -> None:
    clean, p = photos(300, 60, spread, seed)
    decision = choose(clean, p, foretell=False)
    nearest = np.abs(p - decision.threshold).min()
    assume(nearest > 1e-6)
    assert ((p >= decision.threshold) == (p.astype(np.float32) >= decision.threshold)).all()


def test_photos_of_one_car_count_once() -> None:
    clean, p = photos(600, 120, 3.0)
    once = choose(clean, p)
    cars = np.repeat(np.arange(len(p)), 5)
    fivefold = choose(np.repeat(clean, 5), np.repeat(p, 5), groups=cars)
    assert fivefold.n_photos == 3600
    assert asdict(fivefold) | {"n_photos": 720} == asdict(once)


@pytest.mark.parametrize("dirty_share", [None, 0.3])
def test_cars_with_one_photo_each_change_nothing(dirty_share: float | None) -> None:
    clean, p = photos(600, 300, 2.5)
    cars = np.random.default_rng(0).permutation([f"car {number}" for number in range(len(p))])
    once = choose(clean, p, dirty_share=dirty_share)
    assert choose(clean, p, dirty_share=dirty_share, groups=cars) == once
    low: dict[str, Any] = {"target_precision_dirty": 0.9, "confidence": 0.95, "t_clean": 0.9}
    assert choose_low_threshold(clean, p, **low, groups=cars) == choose_low_threshold(clean, p, **low)
    assert scenarios(clean, p, once, groups=cars) == scenarios(clean, p, once)


# --- the dirty verdict ---


@pytest.mark.parametrize("dirty_share", [None, 0.3])
def test_the_low_threshold_is_the_mirror_image(dirty_share: float | None) -> None:
    clean, p = photos(600, 300, 2.5)
    low = choose_low_threshold(
        clean, p, target_precision_dirty=0.9, confidence=0.95, t_clean=1.0, dirty_share=dirty_share
    )
    mirror = choose(~clean, 1 - p, target_precision=0.9, dirty_share=None if dirty_share is None else 1 - dirty_share)
    assert low.certified and low.threshold == pytest.approx(1 - mirror.threshold)
    assert (low.precision, low.recall, low.accepted_clean) == (mirror.precision, mirror.recall, mirror.accepted_clean)
    assert ((p < low.threshold) & ~clean).sum() == low.accepted_clean
    assert low.dirty_share == dirty_share


def test_the_low_threshold_never_passes_the_high_one() -> None:
    clean, p = photos(600, 300, 4.0)
    low = choose_low_threshold(clean, p, target_precision_dirty=0.6, confidence=0.95, t_clean=0.3)
    assert low.threshold == 0.3 and low.certified
    assert low.accepted_clean == ((p < 0.3) & ~clean).sum()
    nothing = choose_low_threshold(clean, p, target_precision_dirty=0.6, confidence=0.95, t_clean=0.0)
    assert nothing.threshold == 0.0 and nothing.accepted_clean == 0 and nothing.precision is None
    one_class = choose_low_threshold(clean[clean], p[clean], target_precision_dirty=0.6, confidence=0.95, t_clean=0.5)
    assert one_class.threshold == 0.0 and "none of the 600 photos is dirty" in str(one_class.reason)


# --- the statistics ---


def test_bounds_are_those_of_scipy() -> None:
    hits, total = np.arange(21), 20
    interval = [stats.binomtest(int(k), total).proportion_ci(0.9, "exact") for k in hits]
    assert rate_low(hits, total, 0.05) == pytest.approx([low for low, _ in interval])
    assert rate_high(hits, total, 0.05) == pytest.approx([high for _, high in interval])
    assert tail(hits, total, 0.3) == pytest.approx(stats.binom.cdf(hits, total, 0.3))
    assert tail(-1, total, 0.3) == 0


@pytest.mark.parametrize(("limit", "units"), [(0.05, 59), (0.02, 149)])
def test_the_least_units_are_those_that_the_test_takes(limit: float, units: int) -> None:
    assert units_for(limit, 0.05) == units
    assert tail(0, units, limit) <= 0.05 < tail(0, units - 1, limit)


def test_what_val_can_prove_is_said_with_shares_that_would_do() -> None:
    said = outlook([("val", "1"), ("val", "1"), ("test", "2")])
    assert said.startswith("val has 1 dirty cars: ") and "below 95 %" in said
    said = outlook(
        (split, str(car)) for split, cars in (("train", 200), ("val", 45), ("test", 45)) for car in range(cars)
    )
    assert "10%: 29;" in said and "5%: 59 (SHARES=58/21/21);" in said and "2%: 149 (too many for 290 in all)" in said


@pytest.mark.parametrize(
    ("clean", "n_clean", "dirty", "n_dirty"), [(60, 250, 0, 120), (3, 40, 1, 9), (580, 600, 22, 120)]
)
def test_the_ratio_tail_is_the_integral_it_claims(clean: int, n_clean: int, dirty: int, n_dirty: int) -> None:
    beta = stats.beta(clean, n_clean - clean + 1)
    truth, _ = integrate.quad(lambda a: beta.pdf(a) * stats.binom.cdf(dirty, n_dirty, 0.26 * a), 0, 1, limit=500)
    assert ratio_tail(clean, n_clean, dirty, n_dirty, 0.26) == pytest.approx(truth, abs=1e-6)
    high = ratio_high(clean, n_clean, dirty, n_dirty, 0.05)
    assert ratio_tail(clean, n_clean, dirty, n_dirty, high) == pytest.approx(0.05)


@pytest.mark.parametrize(("n_clean", "n_dirty", "ratio"), [(100, 40, 0.26), (40, 80, 0.1), (60, 12, 0.6)])
@pytest.mark.parametrize("level", [0.05, 0.005])
def test_the_melded_test_is_never_too_large(n_clean: int, n_dirty: int, ratio: float, level: float) -> None:
    clean, dirty = np.meshgrid(np.arange(n_clean + 1), np.arange(n_dirty + 1), indexing="ij")
    rejected = ratio_tail(clean, n_clean, dirty, n_dirty, ratio) <= level
    for rate in np.linspace(0.02, 1, 50):  # on the border of the hypothesis
        chance = stats.binom.pmf(clean, n_clean, rate) * stats.binom.pmf(dirty, n_dirty, ratio * rate)
        assert chance[rejected].sum() <= level


def test_the_clean_run_fills_the_level_and_does_not_exceed_it() -> None:
    """P(p-value <= level) at a fixed cut, summed over counts and runs, for a precision of exactly the target."""
    total, target, longest = 60, 0.9, 400
    for level in (0.05, 0.01, 0.001):
        size = 0.0
        for dirty in range(30):
            clean = np.concatenate([np.zeros(dirty, bool), np.ones(total - dirty + longest, bool)])
            score = np.concatenate([np.full(total, 1.0), np.linspace(0.9, 0.1, longest)])
            for run in [*range(60), longest]:
                labels = clean.copy()
                if run < longest:
                    labels[total + run] = False
                cuts = Cuts.of(labels, score)
                chance = stats.binom.pmf(dirty, total, 1 - target) * (
                    target**run * (1 - target) if run < longest else target**60
                )
                size += chance * bool(Pooled(cuts, target).p_value(np.array([0]), np.array([total]))[0] <= level)
        assert 0.9 * level <= size <= level * (1 + 1e-9)


def test_a_noisy_start_does_not_end_the_walk() -> None:
    """Two dirty photos at the very top stop a plain sequence; a later start recovers."""
    clean = np.ones(3000, dtype=bool)
    clean[[3, 20, 40, 60, 80]] = False
    clean[2900:] = False
    cuts = Cuts.of(clean, np.linspace(1, 0, 3000))
    assert Pooled(cuts, 0.95).p_value(np.array([72]), np.array([73]))[0] > 0.05
    assert cuts.total[most_permissive_cut(Pooled(cuts, 0.95), 0.05)] > 2900


# --- the promise, simulated ---

SMALL = [
    FIGURES[2],
    KNIFE_EDGE[1],
    KNIFE_EDGE[3],
    Scenario("ties", 500, 0.3, 0.9),
    Scenario("overconfident", 300, 0.3, 0.9),
    Scenario("skewed", 500, 0.3, 0.9, dirty_share=0.2),
    Scenario("mislabelled", 1000, 0.3, 0.95, per_car=4),
    Scenario("normal", 1000, 0.05, 0.95, max_false_clean_rate=0.3),
    FLEET[0],
]


@pytest.mark.parametrize("scenario", SMALL, ids=describe)
def test_the_promise_is_kept(scenario: Scenario) -> None:
    draws = 300
    outcome = simulate(scenario, draws)
    assert outcome.violations <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(
    ("scenario", "recall", "refused"), [*zip(FIGURES, (0.97, 0.90, 0.60), (0.01, 0.03, 0.20), strict=True)]
)
def test_the_promise_costs_little(scenario: Scenario, recall: float, refused: float) -> None:
    found = simulate(scenario, 250)
    assert found.recall >= recall and found.refused <= refused


def test_the_best_of_eight_experiments_keeps_the_promise_if_their_number_is_told() -> None:
    scenario, draws = replace(FIGURES[1], n=300), 100
    error = np.sqrt(0.05 * 0.95 / draws)
    assert best_of(scenario, 8, 1, draws).violations > 0.05 + error
    assert best_of(scenario, 8, 8, draws).violations <= 0.05 + 2 * error


def test_both_thresholds_keep_their_promises_together() -> None:
    draws = 200
    assert both(BOTH[1], 0.9, True, draws).violations <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


def test_what_is_foretold_comes_true() -> None:
    """A number for a chance of 80 % suffices in about four cases of five."""
    right = [foretell(scenario, 4, limit=100).right for scenario in (FORETOLD[1], FORETOLD[4])]
    assert 0.55 <= np.mean(right) <= 0.95


# --- scenarios, and speed ---


def test_scenarios_are_tables_ready_for_json() -> None:
    clean, p = photos(600, 120, 3.0)
    decision = choose(clean, p)
    low = choose_low_threshold(clean, p, target_precision_dirty=0.8, confidence=0.95, t_clean=decision.threshold)
    tables = scenarios(clean, p, decision, low=low)
    json.dumps(asdict(tables), allow_nan=False)

    at_a_tenth = next(row for row in tables.shares if row["dirty_share"] == 0.1)
    right, wrong = 0.9 * (p[clean] >= decision.threshold).mean(), 0.1 * (p[~clean] >= decision.threshold).mean()
    assert at_a_tenth["precision"] == pytest.approx(right / (right + wrong))
    lows = [row["precision_low"] for row in tables.shares]
    assert lows == sorted(lows, reverse=True)  # type: ignore[type-var]
    unsure = [((low.threshold <= q) & (q < decision.threshold)).mean() for q in (p[clean], p[~clean])]
    assert at_a_tenth["review_share"] == pytest.approx(0.9 * unsure[0] + 0.1 * unsure[1])

    same = next(row for row in tables.targets if row["target_precision"] == 0.95)
    assert same["threshold"] == decision.threshold
    for row in tables.curve:
        above = float(row["threshold"]) >= decision.threshold  # type: ignore[arg-type]
        assert (float(row["precision_certified"] or 0) >= 0.95) == above


def test_scenarios_where_no_photo_is_called_dirty() -> None:
    clean, p = photos(600, 120, 3.0)
    decision = choose(clean, p)
    low = choose_low_threshold(clean, p, target_precision_dirty=0.8, confidence=0.95, t_clean=0.0)
    assert {row["precision_dirty"] for row in scenarios(clean, p, decision, low=low).shares} == {None}


@pytest.mark.parametrize("dirty_share", [None, 0.2])
def test_a_hundred_thousand_photos_take_a_second(dirty_share: float | None) -> None:
    clean, p = photos(97_000, 3_000, 2.0)
    start = time.perf_counter()
    assert choose(clean, p, dirty_share=dirty_share, target_precision=0.98).certified
    assert time.perf_counter() - start < 5  # a second on a quiet machine


def test_what_it_takes_is_foretold_in_seconds_for_a_fleet() -> None:
    clean, p = photos(10_350, 345, 2.9)
    start = time.perf_counter()
    assert choose(clean, p, max_false_clean_rate=0.005).more_dirty is not None
    assert time.perf_counter() - start < 8  # one or two on a quiet machine
