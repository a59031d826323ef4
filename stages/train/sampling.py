"""Which photos are trained on, and in which order. Every draw depends on (seed, epoch) alone.

The order of an epoch is drawn for all processes at once and then dealt out, so neither the number of processes nor of
workers changes which photos meet in a batch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.common.data import CLEAN, DIRTY, GROUPS, Photo
from stages.common.errors import StageError
from stages.common.pixels import Images, PhotoSet
from stages.train.params import TrainParams


def hold_out(
    photos: Sequence[Photo], groups: Sequence[str], share: float, seed: int
) -> tuple[list[Photo], list[Photo]]:
    """Split the train photos into (fit, held out), about `share` of each class held out, and no group on both sides:
    a car that was trained on says nothing of the network on other cars. `groups`: the group of each photo.

    The checkpoint is chosen on the held-out part; val stays untouched for the threshold, whose promise needs that.
    Raises StageError for a class that cannot stand on both sides.
    """
    rng = np.random.default_rng([seed, 0])
    group_of = dict(zip(photos, groups, strict=True))
    members: dict[str, list[Photo]] = defaultdict(list)
    for photo, group in group_of.items():
        members[group].append(photo)
    counts = {group: Counter(photo.label for photo in car) for group, car in members.items()}
    total = Counter(photo.label for photo in photos)
    left, held = total.copy(), set[str]()  # photos of each class to train on; groups
    for label in (CLEAN, DIRTY):
        of_class = [photo for photo in photos if photo.label == label]
        wanted = max(1, round(share * len(of_class)))
        for index in rng.permutation(len(of_class)):
            if total[label] - left[label] >= wanted:
                break
            group = group_of[of_class[index]]
            if group not in held and all(left[each] > count for each, count in counts[group].items()):
                held.add(group)
                left.subtract(counts[group])
    for label, name in ((CLEAN, "clean"), (DIRTY, "dirty")):
        if left[label] in (0, total[label]):
            cars = sum(label in count for count in counts.values())
            raise StageError(
                f"train/{name} holds {total[label]} photos of {cars} cars or sessions (see {GROUPS}): at least one "
                "must be held out and one left to train on"
            )
    fit = [photo for photo in photos if group_of[photo] not in held]
    return fit, [photo for photo in photos if group_of[photo] in held]


def epoch_order(labels: NDArray[np.int64], params: TrainParams, epoch: int) -> NDArray[np.int64]:
    """The photos of an epoch, as indices into `labels`, filled up from its own start to whole batches.

    weighted: as many draws as photos, with replacement, both classes equally likely;
    oversample: every clean photo once, dirty ones repeated until there are `oversample_ratio` dirty per clean;
    none: every photo once.
    """
    rng = np.random.default_rng([params.seed, 1, epoch])
    clean, dirty = np.flatnonzero(labels == CLEAN), np.flatnonzero(labels == DIRTY)
    if params.sampler == "weighted":
        weight = np.where(labels == CLEAN, 0.5 / len(clean), 0.5 / len(dirty))
        order = rng.choice(len(labels), len(labels), p=weight)
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

    def __init__(self, labels: NDArray[np.int64], params: TrainParams, rank: int, world: int) -> None:
        if params.batch_size % (parts := world * params.accumulate):
            raise StageError(
                f"params.yaml: train.batch_size: {params.batch_size} cannot be shared out among {world} processes with "
                f"train.accumulate: {params.accumulate} parts each; use a multiple of {parts} or set train.devices"
            )
        self.labels, self.params = labels, params
        share = params.batch_size // world
        self.mine = slice(rank * share, (rank + 1) * share)
        self.begin(0, 0)

    def begin(self, epoch: int, step: int) -> None:
        """Pass over this epoch next, from its step `step` on."""
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(epoch_order(self.labels, self.params, 0)) // self.params.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.labels, self.params, self.epoch)
        positions = np.arange(len(order)).reshape(-1, self.params.batch_size)
        for batch in positions[self.step :, self.mine]:
            yield [(int(position), int(order[position])) for position in batch]
