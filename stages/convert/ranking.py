"""How well does a candidate rank photos, beside the checkpoint it was made from? Scores are logits, `[N]`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata, spearmanr

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """A candidate against the checkpoint on the same photos."""

    roc_auc: float
    auc_loss: Interval
    rank_correlation: float  # Spearman's, of the scores
    max_logit_difference: float
    dirty_photos_needed: int | None  # for an interval of no more than the limit to either side; None: no telling


def compare(is_clean: Bools, checkpoint: Floats, candidate: Floats, max_auc_loss: float) -> Ranking:
    """Compare two sets of finite scores of the same photos, both classes among them.

    The interval of the difference of two AUCs on the same photos is that of DeLong et al. (1988). Its variance is zero
    where both scores separate the classes: such photos cannot tell.
    """
    clean_before, dirty_before = placements(is_clean, checkpoint)
    clean_after, dirty_after = placements(is_clean, candidate)
    lost = [clean_before - clean_after, dirty_before - dirty_after]
    loss = float(lost[0].mean())
    error = float(np.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in lost)))
    spread = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    needed = int(np.ceil(len(lost[1]) * (spread / max_auc_loss) ** 2)) if max_auc_loss else None
    return Ranking(
        roc_auc=float(clean_after.mean()),
        auc_loss=Interval(loss, loss - spread, loss + spread),
        rank_correlation=float(spearmanr(checkpoint, candidate).statistic) if np.ptp(candidate) else 0.0,
        max_logit_difference=float(np.abs(candidate - checkpoint).max()),
        dirty_photos_needed=needed if spread else None,
    )


def placements(is_clean: Bools, score: Floats) -> tuple[Floats, Floats]:
    """For each clean photo the share of dirty ones below it, for each dirty one the share of clean ones above it; ties
    count half. The mean of either is the AUC. By ranks, as in Sun & Xu (2014)."""
    clean, dirty = score[is_clean], score[~is_clean]
    ranks = rankdata(score)
    below = (ranks[is_clean] - rankdata(clean)) / len(dirty)
    above = 1 - (ranks[~is_clean] - rankdata(dirty)) / len(clean)
    return below, above
