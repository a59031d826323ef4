"""From a promise to the most permissive cut that keeps it: tests from the strictest threshold on, one after another.

The fixed-sequence test of Angelopoulos et al., "Learn then Test" (2021, arXiv:2110.01052), over every cut between two
scores, with three refinements. The p-values use the clean run after the cut as well as the count (`Pooled`).
The first test comes late enough that one dirty photo at the top need not end the sequence. Spare starts further down,
each with a small share of the level that returns once it is passed, save it where labels are noisy (the fallback
procedure of Wiens & Dmitrienko, J. Biopharm. Stat. 15, 2005).

Why the promise holds. Assume that (1) units (photos, or cars) are drawn independently, and (2) below the cut where
the precision first falls short of the target, no score stands for cleaner photos than the target: so it is whenever
a higher score means likelier clean. Call that cut t* and let m photos lie above it. A threshold breaks the promise
only if it accepts more than those m, hence only if the test at m has passed, or one at a later start (if m lies
before the first start: the test there, or at a later one). Given m, the dirty count above t* is at least
Binomial(m, 1 - target), and each photo below is dirty with probability >= 1 - target whatever its score; so the
count at any k >= m picked by scores alone is at least Binomial(k, 1 - target), and a clean run after it at most
geometric. The levels of the tests that could wrongly pass add up to 1 - confidence.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from stages.common.bounds import Floats, rate_high, rate_low, ratio_tail, tail
from stages.threshold.decision import Cuts, Ints, Promise

SPARE = 0.05  # share of the level for the later starts: where labels are noisy, little suffices
CUTS_AT_ONCE = 512  # tested together: most sequences end early


@dataclass(frozen=True)
class Pooled:
    """Can the precision at a cut be taken for >= target, at the validation photos' own share of dirty? A binomial test.

    The p-value is that of (dirty photos accepted, clean run that follows), ordered by the count, then the run:
    P(D < d) + P(D = d) * target**run. The count alone would waste the part of the level between two of its values.
    """

    cuts: Cuts
    target: float

    @property
    def rank(self) -> Ints:
        """What each cut accepts, counted, `[C]`."""
        return self.cuts.total

    def first(self, level: float) -> int:
        """The rank where, with no dirty photo accepted, the p-value just reaches this level."""
        return int(np.ceil(np.log(level) / np.log(self.target)))

    def p_value(self, cut: Ints, rank: Ints) -> Floats:
        """P-values of these cuts, of these ranks (at a start among ties: of the rank that was asked for)."""
        total, dirty = self.rank[cut], self.cuts.dirty[cut]
        fewer, upto = tail(dirty - 1, total, 1 - self.target), tail(dirty, total, 1 - self.target)
        return fewer + (upto - fewer) * self.target ** (self.rank[self.cuts.last_before_next_dirty(cut)] - total)


@dataclass(frozen=True)
class AtShare:
    """As `Pooled`, at another share of dirty cars: a test of two rates, given the class counts.

    precision >= target <=> dirty rate <= odds * clean rate, hence `ratio_tail`. The clean run counts as in `Pooled`:
    that d dirty photos rank above the a-th clean one and no more above the b-th has probability
    P(D_b = d) * E[v**d], v ~ Beta(a, b - a). Starts are ranks among the clean photos, whose scores say nothing about
    the dirty ones: there the p-value is exact. Between starts it is a melded one, on the safe side.
    """

    cuts: Cuts
    target: float
    share: float

    @property
    def rank(self) -> Ints:
        return self.cuts.clean

    @property
    def odds(self) -> float:
        return (1 - self.share) / self.share * (1 - self.target) / self.target

    def first(self, level: float) -> int:
        ranks = range(1, self.cuts.n_clean)
        return 1 + bisect_left(ranks, True, key=lambda clean: bool(self._tail(clean, 0) <= level))

    def p_value(self, cut: Ints, rank: Ints) -> Floats:
        dirty, end = self.cuts.dirty[cut], self.rank[self.cuts.last_before_next_dirty(cut)]
        p = np.ones(len(cut))
        likely = np.flatnonzero(dirty * self.cuts.n_clean < self.odds * rank * self.cuts.n_dirty)
        dirty, rank, end = dirty[likely], rank[likely], end[likely]
        log_before = special.gammaln([rank + dirty, rank, end, end + dirty])
        before = np.exp(log_before[0] - log_before[1] + log_before[2] - log_before[3])
        p[likely] = self._tail(rank, dirty - 1) + before * (self._tail(end, dirty) - self._tail(end, dirty - 1))
        return p

    def _tail(self, clean: ArrayLike, dirty: ArrayLike) -> Floats:
        return ratio_tail(clean, self.cuts.n_clean, dirty, self.cuts.n_dirty, self.odds)


def most_permissive_cut(test: Pooled | AtShare, alpha: float) -> int:
    """Index of the most permissive cut that the tests allow, or -1; wrong with probability <= alpha.

    Along a clean run the test only gets easier, so that its first cut stands for all.
    """
    rank, cuts = test.rank, test.cuts
    first = min(test.first(alpha / 2), int(rank[-1]))
    doubled = first * 2.0 ** np.arange(64)
    starts = np.unique(np.append(doubled[doubled < rank[-1]], rank[-1])).astype(np.int64)
    spare = SPARE * alpha / max(len(starts) - 1, 1)
    # The last cut of the first rank that is not less.
    at = np.searchsorted(rank, rank[np.searchsorted(rank, starts)], side="right") - 1

    levels = np.append(alpha - spare * (len(starts) - 1), np.full(len(starts) - 1, spare))
    begun = np.flatnonzero(test.p_value(at, np.minimum(starts, rank[at])) <= levels)
    if len(begun) == 0:
        return -1
    steps = cuts.at_dirty[cuts.at_dirty > at[begun[-1]]]
    level = alpha - spare * (len(starts) - np.searchsorted(starts, rank[steps], side="right"))
    for done in range(0, len(steps), CUTS_AT_ONCE):
        few = slice(done, done + CUTS_AT_ONCE)
        failed = test.p_value(steps[few], rank[steps[few]]) > level[few]
        if failed.any():
            return int(steps[few][np.argmax(failed)]) - 1
    return len(rank) - 1


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
