"""Which photos there are: how many of each label, and the cars that are photographed from several sides.

A car with several views is dirty if one of its photos is. Of a dirty one, DIRTY_SIDES says how many of the four photos
show it; the others lie under `clean`. What a photo shows is its label, so a car may have photos under both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Counts = dict[str, dict[str, int]]  # split -> label -> number

COUNTS: Counts = {  # first photos; every car has one
    "train": {"clean": 900, "dirty": 220},
    "val": {"clean": 460, "dirty": 130},
    "test": {"clean": 460, "dirty": 130},
}
CARS: Counts = {"val": {"clean": 100, "dirty": 20}, "test": {"clean": 66, "dirty": 14}}  # of them, in VIEWS photos
VIEWS = 4
DIRTY_SIDES = {3: 0.5, 4: 0.5}  # how many of the views of a dirty car show it, how often


@dataclass(frozen=True)
class Shot:
    """One photo: view 1, 2 ... of car `index`."""

    index: int
    view: int
    label: str  # of this photo
    first_label: str  # of the car's first photo
    file: Path


def sides(seed: int, split: int, cars: dict[str, int]) -> Iterator[list[str]]:
    """The labels of the views of each car with several."""
    rng = np.random.default_rng([seed, split])
    yield from (["clean"] * VIEWS for _ in range(cars["clean"]))
    for _ in range(cars["dirty"]):
        dirty = rng.choice(list(DIRTY_SIDES), p=list(DIRTY_SIDES.values()))
        yield ["dirty" if turn < dirty else "clean" for turn in rng.permutation(VIEWS)]


def plan(seed: int, counts: Counts = COUNTS, cars: Counts = CARS) -> Iterator[Shot]:
    """Every photo; the numbers in the names are shuffled over the whole set and tell nothing."""
    slots = [(split, label) for split, labels in counts.items() for label, n in labels.items() for _ in range(n)]
    numbers = np.random.default_rng(seed).permutation(len(slots)) + 1
    waiting: dict[tuple[str, str], list[list[str]]] = {slot: [] for slot in slots}
    for number, split in enumerate(cars):
        for labels in sides(seed, number, cars[split]):
            waiting[split, labels[0]].append(labels)
    for index, ((split, label), number) in enumerate(zip(slots, numbers, strict=True)):
        if not waiting[split, label]:
            yield Shot(index, 1, label, label, Path(split, label, f"{number:04d}.jpg"))
            continue
        for view, side in enumerate(waiting[split, label].pop(), 1):
            yield Shot(index, view, side, label, Path(split, side, f"car{number:04d}_view{view}.jpg"))
