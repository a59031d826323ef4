"""The threshold of each verdict: one unit per car, the most permissive certified cut, and what it would take."""

from bisect import bisect_left
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.common.bounds import rate_high
from stages.threshold.decision import Cuts, Decision, Promise, describe
from stages.threshold.fixed_sequence import choose_cut, precise, within_limit
from stages.threshold.forecast import CHANCE, Forecast, more_units

LOWER_TARGETS = np.round(np.arange(0.99, 0.495, -0.01), 2)


def choose_threshold(
    is_clean: ArrayLike,
    p_clean: ArrayLike,
    *,
    target_precision: float,
    confidence: float,
    dirty_share: float | None = None,
    groups: ArrayLike | None = None,
    max_false_clean_rate: float | None = None,
    foretell: bool = True,
) -> Decision:
    """Choose the lowest T such that precision(p_clean >= T) >= target with probability >= confidence.

    Method and assumptions: see `fixed_sequence`. is_clean: bool [N], N > 0. p_clean: float [N] in [0, 1], higher for
    likelier clean; only its order counts, so a strictly monotone calibration fitted on the same photos does no harm.
    dirty_share: the share of dirty cars where T will be used (None: as among these photos). groups: car ids [N]; one
    photo per car is drawn, blind to label and score, so that cars are counted and not photos, each car alike.
    max_false_clean_rate: the share of dirty photos that may pass as clean, to be proven as well. foretell: without a
    proof, also simulate how many photos would do, which takes a second.

    T lies between the last score accepted and the next; it is 0 if all are accepted. Without a proof, T is where the
    lower bound on precision is highest, `certified` is False and `reason` says what is missing; where one class is
    missing, T is 1. A promise that accepting every photo keeps is `trivial` and not certified.
    """
    clean, score, unit = one_photo_per_car(is_clean, p_clean, groups)
    promise = Promise(target_precision, confidence, dirty_share, max_false_clean_rate, unit=unit)
    return replace(decide(Cuts.of(clean, score), promise, foretell), n_photos=np.size(is_clean))


def choose_low_threshold(
    is_clean: ArrayLike,
    p_clean: ArrayLike,
    *,
    target_precision_dirty: float,
    confidence: float,
    t_clean: float,
    dirty_share: float | None = None,
    groups: ArrayLike | None = None,
    foretell: bool = True,
) -> Decision:
    """The mirror image: the highest T_low <= t_clean whose precision of dirty among p_clean < T_low is proven.

    Arguments and method as in `choose_threshold`. In the Decision the classes have changed places: precision
    and recall are those of dirty, false_clean_rate is the share of the clean called dirty, n_clean and
    accepted_clean count dirty photos. Where one class is missing, T_low is 0.
    """
    clean, score, unit = one_photo_per_car(is_clean, p_clean, groups)
    clean_share = None if dirty_share is None else 1 - dirty_share
    promise = Promise(target_precision_dirty, confidence, clean_share, names=("dirty", "clean"), unit=unit)
    cuts = Cuts.of(~clean, 1 - score)
    mirror = decide(cuts, promise, foretell)
    low = min(1 - mirror.threshold, float(t_clean))
    if low < 1 - mirror.threshold:  # stricter than what was certified
        mirror = describe(
            cuts, int((1 - cuts.score < low).sum()) - 1, promise, certified=mirror.certified, reason=mirror.reason
        )
    return replace(mirror, threshold=low, dirty_share=dirty_share, n_photos=np.size(is_clean))


def decide(cuts: Cuts, promise: Promise, foretell: bool) -> Decision:
    """The most permissive certified threshold, else the best that can be reached, with the reason in words."""
    if 0 in (cuts.n_clean, cuts.n_dirty):
        missing = promise.names[0 if cuts.n_clean == 0 else 1]
        reason = f"none of the {len(cuts)} {promise.unit} is {missing}: nothing can be said of {missing} ones"
        return describe(cuts, -1, promise, certified=False, reason=reason)
    cut, certified = choose_cut(cuts, promise)
    decision = describe(cuts, cut, promise, certified=certified)
    if certified:
        return decision
    if decision.trivial:
        accepted, other = promise.names
        reason = f"trivial: calling every car {accepted} meets it while {promise.other_share(cuts):.3g} are {other}"
        return replace(decision, reason=reason)
    return _unproven(decision, cuts, promise, foretell)


def reachable_precision(cuts: Cuts, promise: Promise) -> float | None:
    """The highest lower target whose precision is proven, in steps of 0.01; None: not even 0.5."""
    targets = LOWER_TARGETS[promise.target > LOWER_TARGETS]
    found = bisect_left(targets, True, key=lambda target: precise(cuts, replace(promise, target=float(target))) >= 0)
    return float(targets[found]) if found < len(targets) else None


def _unproven(decision: Decision, cuts: Cuts, promise: Promise, foretell: bool) -> Decision:
    """The decision with what is out of reach, what is not, and what it would take."""
    accepted, other = promise.names
    missing, precision, limit = [], None, None
    if precise(cuts, promise) < 0:
        precision = reachable_precision(cuts, promise)
        can = " (not even 0.5)" if precision is None else f" (but {precision:g} can be promised)"
        missing.append(f"a precision of {promise.target:g}{can if promise.target > LOWER_TARGETS[-1] else ''}")
    if within_limit(cuts, promise) < 0:
        limit = float(rate_high(cuts.dirty[0], cuts.n_dirty, promise.alpha))
        can = f"but {np.ceil(limit * 1000) / 1000:g} can be promised"
        missing.append(f"at most {promise.max_false_clean_rate:g} of the {other} passing as {accepted} ({can})")
    more = more_units(cuts, promise) if foretell else None
    reason = (
        f"{cuts.n_clean} {accepted} and {cuts.n_dirty} {other} {promise.unit} cannot prove {' and '.join(missing)} "
        f"with confidence {promise.confidence:g}{_need(more, promise) if foretell else ''}"
    )
    return replace(
        decision,
        reason=reason,
        reachable_precision=precision,
        reachable_false_clean_rate=limit,
        more_dirty=more and more.more_dirty,
        recall_with_more=more and more.recall,
    )


def _need(more: Forecast | None, promise: Promise) -> str:
    accepted, other = promise.names
    if more is None:
        return "; even 20 times as many that score alike would hardly do"
    return (
        f"; {more.more_dirty} more {other} {promise.unit}, and {accepted} ones in proportion, would do with a chance "
        f"of {CHANCE:.0%} if they score alike, at a recall of about {more.recall:.2f}"
    )


def one_photo_per_car(
    is_clean: ArrayLike, p_clean: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], str]:
    """is_clean and p_clean of the photos that count, `[U]`, and whether these are `photos` or `cars`."""
    clean, score = np.asarray(is_clean, bool), np.asarray(p_clean, np.float64)
    units = one_per_car(groups, len(clean))
    return clean[units], score[units], "photos" if len(units) == len(clean) else "cars"


def one_per_car(groups: ArrayLike | None, n_photos: int) -> NDArray[np.int64]:
    """Indices [U] of the photos that count: one of every car, drawn from a fixed seed; all without groups."""
    if groups is None:
        return np.arange(n_photos)
    cars = np.asarray(groups)
    drawn = np.random.default_rng(0).permutation(n_photos)
    return np.sort(drawn[np.unique(cars[drawn], return_index=True)[1]])
