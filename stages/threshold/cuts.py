"""The candidates: every cut between two distinct scores."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stages.common.bounds import Floats

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
