"""The limit on `distance` beyond which a photo shows no car, such that few photos of cars are refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.common.bounds import tail, units_for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Refusal:
    """JSON-ready. The promise is `certified`: with probability >= confidence over the draw of val, at most
    `max_refused` of the photos of cars lie beyond `max_distance`."""

    max_distance: float | None  # None: the network tells no distance, and nothing is refused
    certified: bool
    reason: str | None  # in words, where it is not certified
    max_refused: float
    confidence: float
    units: int  # val photos that count, one of each car
    refused: int  # of them


def choose_limit(distance: Floats, *, max_refused: float, confidence: float) -> Refusal:
    """The lowest certified limit, given the distances `[N]` of one photo per car, N > 0.

    It is an order statistic: the share of all cars beyond the r-th lowest of N distances has the law
    Beta(N - r + 1, r), whatever their distribution, so its bound is exact where distances are continuous and on the
    safe side with ties (Vovk, "Conditional validity of inductive conformal predictors", 2012). Labels and scores are
    not looked at: given the limit, the photos within it are as independent as before. Where N is too small even for
    the highest distance, that is the limit, not certified.
    """
    ordered, n = np.sort(distance), len(distance)
    if not distance.any():
        off = "the network tells no distance (convert.car_check)"
        return Refusal(None, False, off, max_refused, confidence, n, 0)
    beyond = np.arange(n)  # how many may lie beyond it
    allowed = int((tail(beyond, n, max_refused) <= 1 - confidence).sum())
    limit = float(ordered[n - max(allowed, 1)])
    reason = None
    if not allowed:
        needed = units_for(max_refused, 1 - confidence)
        reason = (
            f"{n} cars in val cannot prove that at most {max_refused:g} of the photos of cars are refused with "
            f"confidence {confidence:g}: {needed} can"
        )
    return Refusal(limit, bool(allowed), reason, max_refused, confidence, n, int((distance > limit).sum()))
