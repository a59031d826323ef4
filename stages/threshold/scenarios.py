"""What the chosen thresholds mean elsewhere: at other dirty shares, at other targets, and all along the curve."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.common.bounds import Floats, precision_at_share, rate_high, rate_low, ratio_high
from stages.threshold.choose import one_photo_per_car
from stages.threshold.decision import Cuts, Decision, Promise, describe
from stages.threshold.fixed_sequence import certify, choose_cut

SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
TARGETS = (0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
CURVE_TARGETS = tuple(np.round(np.append(np.arange(0.5, 0.995, 0.01), 0.995), 3).tolist())
MAX_POINTS = 200

Row = dict[str, float | bool | None]


@dataclass(frozen=True)
class Scenarios:
    """JSON-ready tables; every bound holds with the decision's confidence.

    shares: per dirty share, at T (and T_low): precision, precision_low, recall, false_clean_rate, review_share, and
    with T_low precision_dirty, precision_dirty_low, recall_dirty. targets: per target_precision, what T would be:
    threshold, certified, precision, recall, false_clean_rate. curve: per threshold, strictest first: precision,
    recall, recall_low, recall_high, false_clean_rate and precision_certified, the highest target for which this T
    would have been certified (None: not even 0.5): it meets the decision's target at the decision's T. None where
    nothing is accepted.
    """

    shares: list[Row]
    targets: list[Row]
    curve: list[Row]


def scenarios(
    is_clean: ArrayLike,
    p_clean: ArrayLike,
    decision: Decision,
    *,
    low: Decision | None = None,
    groups: ArrayLike | None = None,
) -> Scenarios:
    """Tabulate around `decision` (of `choose_threshold`) and `low` (of `choose_low_threshold`), given their photos.

    is_clean: bool [N], with both classes. p_clean: float [N]. groups: car ids [N], as for the decision.
    """
    clean, score, _ = one_photo_per_car(is_clean, p_clean, groups)
    cuts = Cuts.of(clean, score)
    rate = decision.max_false_clean_rate
    promise = Promise(decision.target_precision, decision.confidence, decision.dirty_share, rate)
    t_low = None if low is None else low.threshold
    return Scenarios(
        _at_shares(score[clean], score[~clean], decision.threshold, t_low, promise.alpha),
        [_at_target(cuts, replace(promise, target=target)) for target in TARGETS],
        _curve(cuts, promise),
    )


def _at_shares(clean: Floats, dirty: Floats, t_clean: float, t_low: float | None, alpha: float) -> list[Row]:
    """clean, dirty: the scores of each class."""

    def ratios(right: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> tuple[float, float]:
        """The wrong rate / the right one, and its upper bound; infinite if only wrong ones pass, NaN if none at all."""
        if not (right.any() or wrong.any()):
            return np.nan, np.nan
        point = float(wrong.mean() / right.mean()) if right.any() else np.inf
        return point, ratio_high(int(right.sum()), len(right), int(wrong.sum()), len(wrong), alpha)

    ratio, high = ratios(clean >= t_clean, dirty >= t_clean)
    rows: list[Row] = []
    for share in SHARES:
        row: Row = {
            "dirty_share": share,
            "precision": _precision(ratio, share),
            "precision_low": _precision(high, share),
            "recall": float((clean >= t_clean).mean()),
            "false_clean_rate": float((dirty >= t_clean).mean()),
            "review_share": 0.0,
        }
        if t_low is not None:
            unsure_clean, unsure_dirty = ((t_low <= p) & (p < t_clean) for p in (clean, dirty))
            low_ratio, low_high = ratios(dirty < t_low, clean < t_low)
            row |= {
                "review_share": float((1 - share) * unsure_clean.mean() + share * unsure_dirty.mean()),
                "precision_dirty": _precision(low_ratio, 1 - share),
                "precision_dirty_low": _precision(low_high, 1 - share),
                "recall_dirty": float((dirty < t_low).mean()),
            }
        rows.append(row)
    return rows


def _precision(ratio: float, share: float) -> float | None:
    return None if np.isnan(ratio) else float(precision_at_share(ratio, share))


def _at_target(cuts: Cuts, promise: Promise) -> Row:
    cut, certified = choose_cut(cuts, promise)
    decision = describe(cuts, cut, promise, certified=certified)
    fields = ("target_precision", "threshold", "certified", "precision", "recall", "false_clean_rate")
    return {name: getattr(decision, name) for name in fields}


def _curve(cuts: Cuts, promise: Promise) -> list[Row]:
    """At most MAX_POINTS cuts, evenly spaced in what they accept; certified: tried for each target of CURVE_TARGETS."""
    total, alpha = cuts.total, promise.alpha
    share = promise.other_share(cuts)
    shown = np.unique(np.searchsorted(total, np.linspace(1, total[-1], MAX_POINTS)))
    reach = np.array(
        [certify(cuts, replace(promise, target=target, max_false_clean_rate=None)) for target in CURVE_TARGETS]
    )
    rows: list[Row] = []
    for cut in shown.tolist():
        recall, false_clean = cuts.clean[cut] / cuts.n_clean, cuts.dirty[cut] / cuts.n_dirty
        proven = np.flatnonzero(reach >= cut)
        rows.append(
            {
                "threshold": cuts.threshold(cut),
                "precision": float(precision_at_share(false_clean / recall if recall else np.inf, share)),
                "precision_certified": CURVE_TARGETS[proven[-1]] if len(proven) else None,
                "recall": float(recall),
                "recall_low": float(rate_low(cuts.clean[cut], cuts.n_clean, alpha / 2)),
                "recall_high": float(rate_high(cuts.clean[cut], cuts.n_clean, alpha / 2)),
                "false_clean_rate": float(false_clean),
            }
        )
    return rows
