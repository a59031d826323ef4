"""Which split each group of photos goes to: whole groups, and each class in the shares asked for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from stages.common.data import SPLITS

Shares = tuple[float, ...]


def assign(groups: Sequence[tuple[str, ...]], label_of: dict[str, str], shares: Shares, seed: int) -> dict[str, str]:
    """The split of every photo. `groups` are names that stay together, `label_of` the class of each name.

    Large groups go first, since small ones can even out what they leave; each goes where it brings the counts of its
    classes closest to the shares (least squares, each class on its own scale). Which of the groups of one size goes
    where is decided by `seed`, not by the names.
    """
    total = Counter(label_of[name] for group in groups for name in group)
    left = {
        (split, label): share * count
        for split, share in zip(SPLITS, shares, strict=True)
        for label, count in total.items()
    }
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)  # stable, so that groups of one size stay shuffled
    split_of: dict[str, str] = {}
    for group in order:
        count = Counter(label_of[name] for name in group)

        def worse(split: str, count: Counter[str] = count) -> float:
            """How much the squared distance from the shares grows with the group in this split."""
            return sum(n * (n - 2 * left[split, label]) / total[label] ** 2 for label, n in count.items())

        best = min(SPLITS, key=worse)
        for label, n in count.items():
            left[best, label] -= n
        split_of |= dict.fromkeys(group, best)
    return split_of
