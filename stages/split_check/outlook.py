"""What the dirty cars in val can prove at best, said before anything is trained."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from stages.common.base.photos import SPLITS
from stages.common.bounds import rate_high, units_for

LEVEL = 0.05  # 1 - threshold.confidence as it is by default; params.yaml of another stage is not read here
LIMITS = (0.1, 0.05, 0.02, 0.01)
MAX_SHARE = 40  # percent of all cars, in val and in test each; beyond it little is left to train on


def outlook(dirty_photos: Iterable[tuple[str, str]]) -> str:
    """In words: the lowest false-clean limit that val's dirty cars prove of a perfect model, and what others take.

    dirty_photos: the (split, car) of each; several photos of a car count once.
    """
    cars = Counter(split for split, _ in set(dirty_photos))
    dirty = {split: cars[split] for split in SPLITS}
    best = np.ceil(1000 * float(rate_high(0, dirty["val"], LEVEL))) / 10
    limits = (_limit(limit, dirty) for limit in LIMITS)
    return (
        f"val has {dirty['val']} dirty cars: even of a perfect model they prove no false-clean rate below "
        f"{best:g} % (confidence {1 - LEVEL:g}). Least numbers in val: {'; '.join(limits)}"
    )


def _limit(limit: float, dirty: Mapping[str, int]) -> str:
    """What a false-clean limit takes, with shares that would do where val has too few."""
    needed, total = units_for(limit, LEVEL), sum(dirty.values())
    text = f"{limit:.0%}: {needed}"
    if dirty["val"] >= needed:
        return text
    share = int(np.ceil(100 * needed / max(total, 1)))
    if share > MAX_SHARE:
        return f"{text} (too many for {total} in all)"
    return f"{text} (SHARES={100 - 2 * share}/{share}/{share})"
