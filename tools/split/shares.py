"""Which split each group of photos goes to: whole groups, each class in the shares asked for, every split alike."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from stages.common.base.photos import SPLITS

Shares = tuple[float, ...]


def assign(groups: Sequence[tuple[str, ...]], label_of: dict[str, str], shares: Shares, seed: int) -> dict[str, str]:
    """The split of every photo. `groups` are names that stay together, `label_of` the class of each name.

    Stratified by class and size: the groups of a class (clean, dirty or both) take turns from the largest on, those of
    one size in the order of a seeded hash. Each goes where most photos are due by then, which a seeded hash disturbs by
    up to the group's size, less and less towards the small ones: so every split gets its share of every size.
    """
    strata: dict[frozenset[str], list[tuple[str, ...]]] = {}
    for group in groups:
        strata.setdefault(frozenset(label_of[name] for name in group), []).append(group)
    split_of: dict[str, str] = {}
    for stratum in strata.values():
        left = total = sum(map(len, stratum))
        got: Counter[str] = Counter()
        for group in sorted(stratum, key=lambda group: (-len(group), _uniform(seed, group[0]))):
            left -= len(group)
            due = {
                split: share * (total - left) - got[split] + len(group) * left / total * _uniform(seed, split, group[0])
                for split, share in zip(SPLITS, shares, strict=True)
            }
            best = max(SPLITS, key=lambda split: due[split])
            got[best] += len(group)
            split_of |= dict.fromkeys(group, best)
    return split_of


def _uniform(seed: int, *names: str) -> float:
    """A number in [0, 1) that the seed and the names decide."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
