"""The candidate thresholds, the promise to be kept, and the decision: a threshold and what is known at it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stages.common.bounds import Floats, precision_at_share, rate_high, rate_low, ratio_high

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cuts:
    """All C cuts of N units, strictest first: the lowest score accepted, how many of each class; all [C].

    Tied scores are accepted as one block. Cuts depend on the scores through their ranks alone: a monotone
    calibration, even one fitted on these very labels, changes neither their order nor what each accepts.
    """

    score: Floats
    clean: Ints
    dirty: Ints

    @classmethod
    def of(cls, is_clean: NDArray[np.bool_], score: Floats) -> "Cuts":
        """is_clean: bool [N]. score: float [N]. N > 0."""
        order = np.argsort(-score, kind="stable")
        score, clean = score[order], np.cumsum(is_clean[order], dtype=np.int64)
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        return cls(score[last], clean[last], last + 1 - clean[last])

    def __len__(self) -> int:
        return self.n_clean + self.n_dirty

    @property
    def n_clean(self) -> int:
        return int(self.clean[-1])

    @property
    def n_dirty(self) -> int:
        return int(self.dirty[-1])

    @property
    def total(self) -> Ints:
        return self.clean + self.dirty

    @cached_property
    def at_dirty(self) -> Ints:
        """The cuts [S] just below a dirty unit, and the first: each begins a clean run."""
        return np.flatnonzero(np.diff(self.dirty, prepend=-1) > 0)

    def last_before_next_dirty(self, cut: Ints) -> Ints:
        """The last cut before the next dirty unit."""
        return np.append(self.at_dirty, len(self.score))[np.searchsorted(self.at_dirty, cut, side="right")] - 1

    def threshold(self, cut: int) -> float:
        """A threshold in (next score, score[cut]], halfway in log-odds, clear of rounding; scores in [0, 1].

        0 below the last; 1 for cut -1, which accepts nothing short of 1.
        """
        if cut < 0 or cut == len(self.score) - 1:
            return 1.0 if cut < 0 else 0.0
        above, below = self.score[cut], self.score[cut + 1]
        odds = special.logit(np.clip([above, below], 1e-15, 1 - 1e-15))
        return float(np.clip(special.expit(odds.mean()), np.nextafter(below, 1.0), above))


@dataclass(frozen=True)
class Decision:
    """A threshold and what is known at it. Rates in [0, 1]; None where undefined; JSON-ready.

    The promise is `certified`: with probability >= confidence over the draw of the validation photos, precision >=
    target (and false-clean rate <= max_false_clean_rate, where given). The bounds hold with `confidence` each, for
    this one threshold as if it had been fixed beforehand; the recall interval is two-sided.
    """

    threshold: float  # p_clean >= threshold is clean
    certified: bool
    trivial: bool  # accepting every photo meets all that is asked for: the promise says nothing of the model
    reason: str | None  # in words, where it is not certified

    target_precision: float
    confidence: float
    dirty_share: float | None  # where precision is meant to hold; None: the validation photos' own share
    max_false_clean_rate: float | None

    precision: float | None
    precision_low: float | None
    recall: float | None  # share of the clean that is accepted
    recall_low: float | None
    recall_high: float | None
    false_clean_rate: float | None  # share of the dirty that is accepted
    false_clean_rate_high: float | None

    n_photos: int
    n_clean: int  # of the units that count: photos, or with groups one photo per car
    n_dirty: int
    accepted_clean: int
    accepted_dirty: int

    # Where not certified: what these photos prove instead (None where that is not what is missing), and how many more
    # dirty units, with clean ones in proportion, bring an 80 % chance, with the recall to expect then (see `forecast`).
    reachable_precision: float | None = None  # in steps of 0.01
    reachable_false_clean_rate: float | None = None
    more_dirty: int | None = None
    recall_with_more: float | None = None


@dataclass(frozen=True)
class Promise:
    """What T must keep. For the dirty verdict the classes change places; `names`: the accepted one, the other."""

    target: float
    confidence: float
    dirty_share: float | None
    max_false_clean_rate: float | None = None
    names: tuple[str, str] = ("clean", "dirty")
    unit: str = "photos"  # what is counted

    @property
    def alpha(self) -> float:
        return 1 - self.confidence

    def other_share(self, cuts: Cuts) -> float:
        """The share of dirty cars at which the precision is meant."""
        return cuts.n_dirty / len(cuts) if self.dirty_share is None else self.dirty_share

    def met_by_all(self, cuts: Cuts) -> bool:
        """Whether accepting every unit meets the target precision."""
        return 1 - self.other_share(cuts) >= self.target

    def trivial(self, cuts: Cuts) -> bool:
        """Whether any model, even a random one, would keep the promise."""
        return self.max_false_clean_rate is None and self.met_by_all(cuts)


def describe(cuts: Cuts, cut: int, promise: Promise, *, certified: bool, reason: str | None = None) -> Decision:
    """The Decision at this cut; cut -1: nothing is accepted (short of p = 1)."""
    clean, dirty = (int(cuts.clean[cut]), int(cuts.dirty[cut])) if cut >= 0 else (0, 0)
    precision, precision_low = _precision(cuts, clean, dirty, promise)
    n_clean, n_dirty, alpha = cuts.n_clean, cuts.n_dirty, promise.alpha
    return Decision(
        threshold=cuts.threshold(cut),
        certified=certified,
        trivial=promise.trivial(cuts),
        reason=reason,
        target_precision=promise.target,
        confidence=promise.confidence,
        dirty_share=promise.dirty_share,
        max_false_clean_rate=promise.max_false_clean_rate,
        precision=precision,
        precision_low=precision_low,
        recall=clean / n_clean if n_clean else None,
        recall_low=float(rate_low(clean, n_clean, alpha / 2)) if n_clean else None,
        recall_high=float(rate_high(clean, n_clean, alpha / 2)) if n_clean else None,
        false_clean_rate=dirty / n_dirty if n_dirty else None,
        false_clean_rate_high=float(rate_high(dirty, n_dirty, alpha)) if n_dirty else None,
        n_photos=len(cuts),
        n_clean=n_clean,
        n_dirty=n_dirty,
        accepted_clean=clean,
        accepted_dirty=dirty,
    )


def _precision(cuts: Cuts, clean: int, dirty: int, promise: Promise) -> tuple[float | None, float | None]:
    """Precision and its lower bound with so many accepted."""
    if clean + dirty == 0 or 0 in (cuts.n_clean, cuts.n_dirty):
        return None, None
    if promise.dirty_share is None:
        return clean / (clean + dirty), float(rate_low(clean, clean + dirty, promise.alpha))
    ratio = dirty / cuts.n_dirty * cuts.n_clean / clean if clean else np.inf
    high = ratio_high(clean, cuts.n_clean, dirty, cuts.n_dirty, promise.alpha)
    share = promise.dirty_share
    return float(precision_at_share(ratio, share)), float(precision_at_share(high, share))
