"""From a promise to the cut that keeps it, and what can be said where there is none."""

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from stages.threshold.bounds import rate_high, rate_low, tail
from stages.threshold.cuts import Cuts
from stages.threshold.decision import Decision, Promise, describe
from stages.threshold.walk import AtShare, Pooled, furthest

LOWER_TARGETS = np.round(np.arange(0.99, 0.495, -0.01), 2)
GROWTH = np.geomspace(1.01, 20, 128)  # more is not worth telling


def decide(cuts: Cuts, promise: Promise) -> Decision:
    """The most permissive certified threshold, else the best that can be reached, with the reason in words."""
    if 0 in (cuts.n_clean, cuts.n_dirty):
        missing = promise.names[0 if cuts.n_clean == 0 else 1]
        reason = f"none of the {len(cuts)} photos is {missing}: nothing can be said of {missing} ones"
        return describe(cuts, -1, promise, reason)
    cut = certify(cuts, promise)
    if cut >= 0:
        return describe(cuts, cut, promise)
    reachable, more = _reachable(cuts, promise), _more_dirty(cuts, promise)
    decision = describe(cuts, _best(cuts, promise), promise, _reason(cuts, promise, reachable, more))
    return replace(decision, reachable_precision=reachable, more_dirty=more)


def certify(cuts: Cuts, promise: Promise) -> int:
    """Index of the most permissive cut for which everything promised is proven, or -1.

    Two constraints cost no more than one: T is wrong only if the test of the one that breaks first has passed.
    """
    last = len(cuts.score) - 1
    if promise.target == 1:
        return -1
    if promise.dirty_share is None:
        last = furthest(Pooled(cuts, promise.target), promise.alpha)
    elif not promise.trivial(cuts):
        last = furthest(AtShare(cuts, promise.target, promise.dirty_share), promise.alpha)
    if promise.max_false_clean_rate is not None:
        low_enough = tail(cuts.dirty, cuts.n_dirty, promise.max_false_clean_rate) <= promise.alpha
        last = min(last, int(low_enough.sum()) - 1)
    return last


def _best(cuts: Cuts, promise: Promise) -> int:
    """The cut with the highest lower bound on precision; with a dirty_share, from bounds on both rates."""
    if promise.dirty_share is None:
        return int(np.argmax(rate_low(cuts.clean, cuts.total, promise.alpha)))
    dirty_rate = rate_high(cuts.dirty, cuts.n_dirty, 0.9 * promise.alpha)
    return int(np.argmax(rate_low(cuts.clean, cuts.n_clean, 0.1 * promise.alpha) / dirty_rate))


def _reachable(cuts: Cuts, promise: Promise) -> float | None:
    targets = LOWER_TARGETS[promise.target > LOWER_TARGETS]
    found = bisect_left(targets, True, key=lambda target: certify(cuts, replace(promise, target=float(target))) >= 0)
    return float(targets[found]) if found < len(targets) else None


def _more_dirty(cuts: Cuts, promise: Promise) -> int | None:
    """About how many more dirty photos would do, were all counts to grow alike; None: not even 20 times as many."""

    def enough(factor: float) -> bool:
        clean, dirty = np.floor(cuts.clean * factor), np.ceil(cuts.dirty * factor)
        return certify(Cuts(cuts.score, clean.astype(np.int64), dirty.astype(np.int64)), promise) >= 0

    found = bisect_left(GROWTH, True, key=enough)
    return int(np.ceil(cuts.n_dirty * (GROWTH[found] - 1))) if found < len(GROWTH) else None


def _reason(cuts: Cuts, promise: Promise, reachable: float | None, more: int | None) -> str:
    if promise.target == 1:
        return "no number of photos can prove a precision of 1: choose a target below it"
    accepted, other = promise.names
    limit = promise.max_false_clean_rate
    also = "" if limit is None else f", with at most {limit:g} of the {other} passing as {accepted},"
    can = "nor even 0.5" if reachable is None else f"but {reachable:g} can be promised"
    need = (
        f"more photos would not help, too many {other} ones score like {accepted} ones"
        if more is None
        else f"about {more} more {other} photos, and {accepted} ones in proportion, would do if they score alike"
    )
    return (
        f"{cuts.n_clean} {accepted} and {cuts.n_dirty} {other} photos cannot prove a precision of {promise.target:g}"
        f"{also} with confidence {promise.confidence:g}, {can}; {need}"
    )
