"""How good are the scores: metrics with bootstrap intervals. Arrays `[N]`: labels, raw logits, calibrated p_clean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, f1_score, roc_auc_score

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def reliability(is_clean: Bools, p_clean: Floats, bins: int) -> list[tuple[float, float, int]]:
    """(mean p_clean, share of clean, count) of up to `bins` groups of equal size, ties kept together."""
    order = np.argsort(p_clean, kind="stable")
    edges = np.unique(np.searchsorted(p_clean[order], p_clean[order][:: max(1, -(-len(order) // bins))]))
    groups = np.split(order, edges[1:])
    return [(float(p_clean[group].mean()), float(is_clean[group].mean()), len(group)) for group in groups]


def expected_calibration_error(is_clean: Bools, p_clean: Floats, bins: int) -> float:
    """Mean distance of p_clean from the share of clean, over groups of equal size (Naeini et al. 2015)."""
    groups = reliability(is_clean, p_clean, bins)
    return sum(count * abs(p - share) for p, share, count in groups) / len(p_clean)


def point_metrics(is_clean: Bools, logit: Floats, p_clean: Floats, bins: int) -> dict[str, float]:
    """Every metric of one set of photos; accuracy, F1 and the confusion counts are at p_clean >= 0.5.

    Rank metrics take the raw logits: cross-fitted p_clean come from several maps, whose ranks do not compare. Precision
    and recall at the business threshold are the threshold stage's, which knows it.
    """
    said_clean = p_clean >= 0.5
    return {
        "roc_auc": float(roc_auc_score(is_clean, logit)),
        "average_precision_clean": float(average_precision_score(is_clean, logit)),
        "average_precision_dirty": float(average_precision_score(~is_clean, -logit)),
        "accuracy": float(accuracy_score(is_clean, said_clean)),
        "f1_clean": float(f1_score(is_clean, said_clean, zero_division=0)),
        "f1_dirty": float(f1_score(~is_clean, ~said_clean, zero_division=0)),
        "brier": float(brier_score_loss(is_clean, p_clean)),
        "ece": expected_calibration_error(is_clean, p_clean, bins),
    }


def with_intervals(
    is_clean: Bools, logit: Floats, p_clean: Floats, groups: Sequence[str], *, bins: int, draws: int, seed: int
) -> dict[str, dict[str, float]]:
    """Each metric as value, low and high: the 95 % percentile interval over `draws` cluster bootstrap samples.

    Photos of one car are alike, so whole groups (cars) are resampled, separately among clean cars, dirty cars and cars
    with photos of both classes (Davison & Hinkley 1997, section 3.8).
    """
    rng = np.random.default_rng(seed)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    classes = 2 * (np.bincount(group, is_clean) > 0) + (np.bincount(group, ~is_clean) > 0)
    strata = [np.flatnonzero(classes == kind) for kind in np.unique(classes)]
    samples = []
    for _ in range(draws):
        drawn = np.concatenate([rng.choice(members, len(members)) for members in strata])
        photos = np.repeat(np.arange(len(group)), np.bincount(drawn, minlength=len(classes))[group])
        samples.append(list(point_metrics(is_clean[photos], logit[photos], p_clean[photos], bins).values()))
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    values = point_metrics(is_clean, logit, p_clean, bins)
    return {
        name: {"value": value, "low": float(low[i]), "high": float(high[i])}
        for i, (name, value) in enumerate(values.items())
    }


def confusion(is_clean: Bools, said_clean: Bools) -> dict[str, int]:
    """Counts by truth and verdict; `dirty_as_clean` are the ones that cost."""
    return {
        "clean_as_clean": int((is_clean & said_clean).sum()),
        "clean_as_dirty": int((is_clean & ~said_clean).sum()),
        "dirty_as_clean": int((~is_clean & said_clean).sum()),
        "dirty_as_dirty": int((~is_clean & ~said_clean).sum()),
    }
