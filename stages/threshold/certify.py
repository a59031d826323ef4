"""From a promise to the cut that keeps it, or to the best one where there is none."""

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from stages.common.bounds import rate_high, rate_low, tail
from stages.threshold.cuts import Cuts
from stages.threshold.decision import Promise
from stages.threshold.fixed_sequence import AtShare, Pooled, most_permissive_cut

LOWER_TARGETS = np.round(np.arange(0.99, 0.495, -0.01), 2)


def choose_cut(cuts: Cuts, promise: Promise) -> tuple[int, bool]:
    """The most permissive certified cut, else the best; whether it is certified. A trivial promise certifies nothing.

    Both classes must be there.
    """
    cut = certify(cuts, promise)
    return (cut, not promise.trivial(cuts)) if cut >= 0 else (_best(cuts, promise), False)


def certify(cuts: Cuts, promise: Promise) -> int:
    """Index of the most permissive cut for which everything promised is proven, or -1.

    Two constraints cost no more than one: T is wrong only if the test of the one that breaks first has passed.
    """
    return min(precise(cuts, promise), within_limit(cuts, promise))


def precise(cuts: Cuts, promise: Promise) -> int:
    """Index of the most permissive cut whose precision is proven, or -1."""
    if promise.target == 1:
        return -1
    if promise.dirty_share is None:
        return most_permissive_cut(Pooled(cuts, promise.target), promise.alpha)
    if promise.met_by_all(cuts):
        return len(cuts.score) - 1
    return most_permissive_cut(AtShare(cuts, promise.target, promise.dirty_share), promise.alpha)


def within_limit(cuts: Cuts, promise: Promise) -> int:
    """Index of the most permissive cut whose false-clean rate is proven to be within the limit, or -1."""
    if promise.max_false_clean_rate is None:
        return len(cuts.score) - 1
    return int((tail(cuts.dirty, cuts.n_dirty, promise.max_false_clean_rate) <= promise.alpha).sum()) - 1


def reachable_precision(cuts: Cuts, promise: Promise) -> float | None:
    """The highest lower target whose precision is proven, in steps of 0.01; None: not even 0.5."""
    targets = LOWER_TARGETS[promise.target > LOWER_TARGETS]
    found = bisect_left(targets, True, key=lambda target: precise(cuts, replace(promise, target=float(target))) >= 0)
    return float(targets[found]) if found < len(targets) else None


def _best(cuts: Cuts, promise: Promise) -> int:
    """The cut with the highest lower bound on precision; with a dirty_share, from bounds on both rates.

    Where the false-clean limit is out of reach, the last of those cuts that come nearest to it.
    """
    if within_limit(cuts, promise) < 0:
        return int(cuts.last_before_next_dirty(np.array([0]))[0])
    if promise.dirty_share is None:
        return int(np.argmax(rate_low(cuts.clean, cuts.total, promise.alpha)))
    dirty_rate = rate_high(cuts.dirty, cuts.n_dirty, 0.9 * promise.alpha)
    return int(np.argmax(rate_low(cuts.clean, cuts.n_clean, 0.1 * promise.alpha) / dirty_rate))
