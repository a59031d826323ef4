"""Which photos are refused as unusable, such that few photos of cars are: the limits on distance and on quality."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.inference.verdict.rule import REASONS, Limits, Measures
from stages.common.bounds import tail, units_for

Floats = NDArray[np.float64]


class Cut(NamedTuple):
    """A photo is refused beyond `max_distance` (None: none told, none refused) or with an adequacy below `adequate`."""

    max_distance: float | None
    adequate: float
    refused: int  # of these photos
    certified: bool
    reason: str | None  # in words, where it is not certified


@dataclass(frozen=True)
class Refusal:
    """JSON-ready. The promise is `certified`: with probability >= confidence over the draw of val, at most
    `max_refused` of the photos of cars are beyond one of the four limits."""

    max_distance: float | None  # None: the network tells no distance
    dark_below: float
    sharpness_below: float
    small_below: float
    certified: bool
    reason: str | None  # in words, where it is not certified
    max_refused: float
    confidence: float
    units: int  # val photos that count, one of each car
    refused: dict[str, int]  # reason -> how many of them

    @property
    def limits(self) -> Limits:
        """As the rule takes them."""
        distance = np.inf if self.max_distance is None else self.max_distance
        return Limits(distance, self.dark_below, self.sharpness_below, self.small_below)


def choose_refusal(measures: Floats, wanted: Limits, *, max_refused: float, confidence: float) -> Refusal:
    """The certified limits, given the Measures `[N, 4]` of one photo per car, N > 0.

    `wanted` are the limits on quality below which a person could hardly tell either. Where too many photos of cars
    are, all three are lowered by one factor: see `choose_limit`.
    """
    cut = choose_limit(measures[:, 0], adequacy(measures, wanted), max_refused=max_refused, confidence=confidence)
    share = cut.adequate if cut.adequate == 1 else cut.adequate * (1 - 1e-9)  # rounding refuses no photo more
    quality = {name: share * limit for name, limit in asdict(wanted).items() if name != "max_distance"}
    found = Refusal(
        cut.max_distance, **quality, certified=cut.certified, reason=cut.reason, max_refused=max_refused,
        confidence=confidence, units=len(measures), refused={},
    )  # fmt: skip
    reasons = Counter(found.limits.reason(Measures(*row)) for row in measures.tolist())
    return replace(found, refused={name: reasons[name] for name in REASONS if reasons[name]})


def adequacy(measures: Floats, wanted: Limits) -> Floats:
    """What each photo has of the brightness, sharpness and size that are wanted, `[N]`: the least of three ratios."""
    limits = np.array([wanted.dark_below, wanted.sharpness_below, wanted.small_below])
    ratios = np.full((len(measures), len(limits)), np.inf)
    np.divide(measures[:, 1:], limits, out=ratios, where=np.broadcast_to(limits > 0, ratios.shape))
    return np.asarray(ratios.min(1))


def choose_limit(distance: Floats, adequate: Floats | None = None, *, max_refused: float, confidence: float) -> Cut:
    """The most permissive certified cut: by adequacy no higher than 1, by distance as low as the promise allows.

    N photos cut the space of photos into N + 1 blocks; a cut that takes away B blocks, one photo's after the other's,
    each time beyond the most extreme photo left in an order fixed beforehand, takes away a share of all photos with the
    law Beta(B, N + 1 - B), whatever their distribution and the orders (Wald, "An extension of Wilks' method for setting
    tolerance limits", 1943; Tukey, "Non-parametric estimation II", 1947). So the bound is exact where measures are
    continuous, and on the safe side with ties. No share of the error is split among the reasons. The first half of the
    blocks, rounded up, goes by adequacy below 1, among the adequate by distance; the others by distance. Where fewer
    photos are inadequate, distance thus has what they leave; where more are, both have a half.

    Labels and scores are not looked at: given the cut, the photos within it are as independent as before. Where N is
    too small, nothing beyond the extreme photo is cut off, not certified.
    """
    n, told = len(distance), bool(distance.any())
    quality = np.ones(n) if adequate is None else np.minimum(adequate, 1.0)
    allowed = int((tail(np.arange(n), n, max_refused) <= 1 - confidence).sum())
    first = max(1, -(-allowed // 2) if told else allowed)
    order = np.lexsort((-distance, quality))  # the most extreme first
    level = float(quality[order[first - 1]])
    farthest, blocks = None, first
    if told:
        rest = max(allowed - first, int(level < 1))  # where adequacy cuts, distance has a block of its own
        ranked = np.append(distance[order[first - 1]], np.sort(distance[order[first:]])[::-1])
        farthest, blocks = float(ranked[min(rest, n - first)]), first + rest
    reason = None if blocks <= allowed else _too_few(n, blocks, max_refused, confidence)
    far = np.zeros(n, bool) if farthest is None else distance > farthest
    return Cut(farthest, level, int((far | (quality < level)).sum()), blocks <= allowed, reason)


def _too_few(cars: int, blocks: int, max_refused: float, confidence: float) -> str:
    needed = units_for(max_refused, 1 - confidence)
    while tail(blocks - 1, needed, max_refused) > 1 - confidence:
        needed += 1
    return (
        f"{cars} cars in val cannot prove that at most {max_refused:g} of the photos of cars are refused with "
        f"confidence {confidence:g}: {needed} can"
    )
