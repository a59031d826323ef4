"""What the verdicts on a set of photos came to, for every stage that reports it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.inference.verdict.rule import CLEAN, DIRTY, UNCERTAIN, UNUSABLE, Measures, Rule

Outcome = dict[str, float | int | None]


def verdicts(
    rule: Rule, p_clean: Sequence[float] | NDArray[np.floating], measures: NDArray[np.floating] | None = None
) -> NDArray[np.str_]:
    """The verdict on each p_clean, `[N]`, with its Measures, `[N, 4]`; without measures no photo is refused."""
    if measures is None:
        return np.array([rule.decide(float(p)) for p in p_clean])
    return np.array([rule.decide(float(p), Measures(*row)) for p, row in zip(p_clean, measures.tolist(), strict=True)])


def outcome(is_clean: NDArray[np.bool_], verdict: NDArray[np.str_]) -> Outcome:
    """Counts and rates of the verdicts `[N]` on photos `[N]`; None where a rate has nothing to divide by.

    Precision and recall take `uncertain` and `unusable` as no verdict; the `_with_uncertain` ones take `uncertain` as
    the verdict named, which is what an operator gets who waves the uncertain cars through, or who washes them all.
    """
    said_clean, said_dirty, unsure = (verdict == name for name in (CLEAN, DIRTY, UNCERTAIN))
    result: Outcome = {
        "photos": len(verdict),
        "dirty_as_clean": int((said_clean & ~is_clean).sum()),
        "precision_clean": _share(is_clean, said_clean),
        "recall_clean": _share(said_clean, is_clean),
        "false_clean_rate": _share(said_clean, ~is_clean),
        "precision_dirty": _share(~is_clean, said_dirty),
        "recall_dirty": _share(said_dirty, ~is_clean),
        "review_share": float(unsure.mean()),
    }
    if refused := int((verdict == UNUSABLE).sum()):
        result["unusable"] = refused
    if unsure.any():
        result |= {
            "precision_clean_with_uncertain": _share(is_clean, said_clean | unsure),
            "recall_clean_with_uncertain": _share(said_clean | unsure, is_clean),
            "precision_dirty_with_uncertain": _share(~is_clean, said_dirty | unsure),
            "recall_dirty_with_uncertain": _share(said_dirty | unsure, ~is_clean),
        }
    return result


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    """The share of `whole` that is in `part` too."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None
