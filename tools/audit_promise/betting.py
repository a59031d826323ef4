"""Bounds on a rate, and an alarm, that may be looked at after every judgement: game-theoretic, so always valid.

A gambler who bets on each outcome at odds that are fair under a hypothesis grows rich with probability at most `level`:
P(wealth ever reaches 1/level) <= level (Ville 1939). Each of FRACTIONS gets an equal share of the first wealth and
stakes that fraction of what it has at every outcome: the grid Kelly bets and hedged capital of Waudby-Smith & Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86 (2024), arXiv 2010.09686.

The alarm tests that every judgement has P(clean | past) >= target, as Podkopaev & Ramdas, "Tracking the risk of a
deployed model", ICLR 2022. For a break that comes late part of the wealth is kept back, and a part of that is staked
afresh at every judgement: a mixture of e-processes over their start (Shin, Ramdas & Rinaldo, "E-detectors", 2023), with
weights that add up to 1. So it bounds the probability of a false alarm for ever, not the mean time between two.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]

FRACTIONS: Floats = special.expit(np.linspace(-7, 4, 23))  # of the wealth: from 0.1 % to 98 %
FIRST = 0.02  # of the alarm's wealth is staked on a break before the first judgement; more would detect late ones later
PATIENCE = 1000  # judgements after which half of the rest is staked
RICHEST = 1e100  # wealth beyond it is given away: conservative, and no overflow
FURTHEST = 1_000_000  # judgements: a forecast beyond it is none


def gains(rate: float, weight: ArrayLike = 1.0) -> tuple[Floats, Floats]:
    """Log-growth of each bet on "the rate is above this" at a hit and at a miss, each `weight.shape + [G]`.

    A weight in (0, 1] scales the stake, and so what an outcome counts in the mean that is bet on.
    """
    stake = np.asarray(weight, dtype=np.float64)[..., None] * FRACTIONS
    return np.log1p(stake * (1 / rate - 1)), np.log1p(-stake)


def log_wealth(hits: ArrayLike, misses: ArrayLike, weight: ArrayLike, rate: float) -> Floats:
    """Log-wealth of each bet on "the rate is above this", `[G]`, after `hits` and `misses` of each weight, all `[W]`.

    Falls as `rate` grows.
    """
    up, down = gains(rate, weight)
    return np.asarray(np.asarray(hits) @ up + np.asarray(misses) @ down, dtype=np.float64)


def rate_low(hits: ArrayLike, misses: ArrayLike, weight: ArrayLike, level: float) -> float:
    """The lower confidence sequence: P(it ever exceeds the weighted mean rate) <= level. Counts and weights: `[W]`."""

    def excess(rate: float) -> float:
        return mean_wealth(log_wealth(hits, misses, weight, rate)) + float(np.log(level))

    return float(optimize.brentq(excess, 1e-12, 1.0)) if excess(1e-12) > 0 else 0.0


def mean_wealth(bets: Floats) -> float:
    """The log of the gambler's wealth, from the log-wealth of the bets, `[G]`, that began with equal parts of 1."""
    return float(special.logsumexp(bets) - np.log(len(bets)))


def judgements_until(bets: Floats, goal: float, rate: float, hit_rate: float) -> int | None:
    """About how many further outcomes bring the log-wealth of `bets` on "the rate is above `rate`" to `goal`.

    Along the mean path, should hits go on at `hit_rate`; None where that is beyond FURTHEST.
    """
    up, down = gains(rate)
    ahead = np.unique(np.geomspace(1, FURTHEST, 600).astype(int))
    grown = bets + ahead[:, None] * (hit_rate * up + (1 - hit_rate) * down)
    reached = special.logsumexp(grown, axis=-1) - np.log(len(bets)) >= goal
    return int(ahead[reached.argmax()]) if reached.any() else None


class Alarm:
    """The e-process against "precision >= target", for any number of streams at once.

    `wealth`, one number for each stream, reaches 1/level with probability at most level, however often one looks.
    """

    def __init__(self, target: float, streams: tuple[int, ...] = ()) -> None:
        self._growth = np.exp(np.stack(gains(1 - target)[::-1]))  # at a clean one, at a dirty one: [2, G]
        self._seen = 0
        self._reserve = 1 - FIRST
        self.bets = np.full((*streams, len(FRACTIONS)), FIRST / len(FRACTIONS))
        self.wealth: Floats = np.ones(streams)

    def update(self, dirty: NDArray[np.bool_] | bool) -> Floats:
        """One more judgement of each stream; the wealth after it."""
        if self._seen:  # the reserve after t judgements is PATIENCE / (PATIENCE + t) of the first
            stake = self._reserve / (PATIENCE + self._seen)
            self._reserve -= stake
            self.bets += stake / len(FRACTIONS)
        self._seen += 1
        self.bets *= self._growth[np.asarray(dirty, dtype=np.int64)]
        np.minimum(self.bets, RICHEST, out=self.bets)
        self.wealth = self._reserve + self.bets.sum(axis=-1)
        return self.wealth
