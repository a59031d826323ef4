"""Which photos are trained on, and in which order. Every draw depends on (seed, epoch) alone.

The order of an epoch is drawn for all processes at once and then dealt out, so neither the number of processes nor of
workers changes which photos meet in a batch.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.common.base.errors import StageError
from stages.common.base.paths import GROUPS
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Origin, Photo
from stages.common.pixels.photo_set import Images, PhotoSet
from stages.train.params import TrainParams


def hold_out(
    photos: Sequence[Photo], groups: Sequence[str], share: float, seed: int
) -> tuple[list[Photo], list[Photo]]:
    """Split the train photos into (fit, held out) by group: a car that was trained on says nothing about other cars.

    A group is held out where a hash of (seed, its name) falls below `share`, so a photo that is added or removed
    changes the side of no other group. A group with more than `share` of a class is trained on. A side without a class
    gets the group that is nearest to the border. `groups`: the group of each photo.
    Raises StageError for a class that cannot stand on both sides.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for photo, group in zip(photos, groups, strict=True):
        counts[group][photo.label] += 1
    total = Counter(photo.label for photo in photos)
    draws = {group: _draw(seed, group) for group in counts}
    ranked = sorted(counts, key=lambda group: draws[group])
    small = (g for g in ranked if all(n <= max(1, share * total[label]) for label, n in counts[g].items()))
    held = {group for group in small if draws[group] < share}
    fit = set(ranked) - held
    for label in (CLEAN_LABEL, DIRTY_LABEL):
        _ensure(label, held, fit, ranked, counts)
        _ensure(label, fit, held, ranked[::-1], counts)
    for label, name in ((CLEAN_LABEL, "clean"), (DIRTY_LABEL, "dirty")):
        if not all(any(counts[group][label] for group in side) for side in (fit, held)):
            cars = sum(label in count for count in counts.values())
            raise StageError(
                f"train/{name} holds {total[label]} photos of {cars} cars or sessions (see {GROUPS}): at least one "
                "must be held out and one left to train on"
            )
    sides: tuple[list[Photo], list[Photo]] = ([], [])
    for photo, group in zip(photos, groups, strict=True):
        sides[group in held].append(photo)
    return sides


def _draw(seed: int, group: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the group's name."""
    return int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:6], "big") / 2**48


def _ensure(label: int, to: set[str], of: set[str], order: Sequence[str], counts: Mapping[str, Counter[int]]) -> None:
    """Where no group in `to` has photos of a class, move the first one in `order` that `of` can spare."""
    if any(counts[group][label] for group in to):
        return
    left = Counter[int]()
    for group in of:
        left.update(counts[group])
    for group in order:
        if group in of and counts[group][label] and all(left[each] > n for each, n in counts[group].items()):
            of.remove(group)
            to.add(group)
            return


def chances(labels: NDArray[np.int64], origins: Sequence[Origin], params: TrainParams) -> NDArray[np.float64]:
    """The probability of each photo in one draw of the weighted sampler, `[N]`: `dirty_share` for all dirty photos,
    the same for each car of a class, and the same for each photo of a car.

    With balance `class_and_source`, a source has a probability proportional to the square root of its cars of the
    class: a catalogue of clean cars is not what clean means, and a small source is not repeated at any price.
    """
    chance, cars = np.empty(len(labels)), np.array([origin.group for origin in origins])
    sources = np.unique([origin.source for origin in origins], return_inverse=True)[1]
    for label, share in ((CLEAN_LABEL, 1 - params.dirty_share), (DIRTY_LABEL, params.dirty_share)):
        members = labels == label
        _, car, photos = np.unique(cars[members], return_inverse=True, return_counts=True)
        weight = 1 / photos[car]
        if params.balance == "class_and_source":
            weight /= np.sqrt(np.bincount(sources[members], weight))[sources[members]]
        chance[members] = share * weight / weight.sum()
    return chance


def epoch_order(
    labels: NDArray[np.int64], origins: Sequence[Origin], params: TrainParams, epoch: int
) -> NDArray[np.int64]:
    """The photos of an epoch, as indices into `labels`, filled up from its own start to whole batches.

    weighted: as many draws as photos, with replacement, by `chances`;
    oversample: every clean photo once, dirty ones repeated until there are `oversample_ratio` dirty per clean;
    none: every photo once.
    """
    rng = np.random.default_rng([params.seed, 1, epoch])
    clean, dirty = np.flatnonzero(labels == CLEAN_LABEL), np.flatnonzero(labels == DIRTY_LABEL)
    if params.sampler == "weighted":
        order = rng.choice(len(labels), len(labels), p=chances(labels, origins, params))
    elif params.sampler == "oversample":
        wanted = max(len(dirty), round(params.oversample_ratio * len(clean)))
        whole, rest = divmod(wanted, len(dirty))
        repeated = np.concatenate([np.tile(dirty, whole), rng.permutation(dirty)[:rest]])
        order = rng.permutation(np.concatenate([clean, repeated]))
    else:
        order = rng.permutation(len(labels))
    return np.resize(order, -(-len(order) // params.batch_size) * params.batch_size)


class Positioned(PhotoSet):
    """A PhotoSet addressed by (position in the epoch, photo index), which hands the position on to augmentation."""

    def __getitems__(  # type: ignore[override]
        self, keys: Sequence[tuple[int, int]]
    ) -> tuple[Images, NDArray[np.int64], NDArray[np.int64]]:
        positions, indices = np.array(keys).T
        return *super().__getitems__(indices), positions


class Batches:
    """A batch sampler for one process: lists of (position in the epoch's order, photo index).

    `batch_size` is global; process `rank` of `world` gets its slice of every batch. Call `begin` before each pass.
    """

    def __init__(
        self, labels: NDArray[np.int64], origins: Sequence[Origin], params: TrainParams, rank: int, world: int
    ) -> None:
        self.labels, self.origins, self.params = labels, origins, params
        share = params.local_batch_size(world)
        self.mine = slice(rank * share, (rank + 1) * share)
        self.begin(0, 0)

    def begin(self, epoch: int, step: int) -> None:
        """Pass over this epoch next, from its step `step` on."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(epoch_order(self.labels, self.origins, self.params, 0)) // self.params.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.labels, self.origins, self.params, self.epoch)
        positions = np.arange(len(order)).reshape(-1, self.params.batch_size)
        for batch in positions[self.step :, self.mine]:
            yield [(int(position), int(order[position])) for position in batch]
