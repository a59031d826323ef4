"""The photos: where they lie, their class, which are left out, which are of one car, what was predicted. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.inference.verdict.rule import CLASSES, Limits, Measures
from stages.common.base.errors import StageError
from stages.common.base.files import read_csv
from stages.common.base.paths import EXCLUSIONS, GROUPS, PREDICTIONS, TRAIN_PHOTOS

T = TypeVar("T")

SPLITS = ("train", "val", "test")
CLEAN_LABEL, DIRTY_LABEL = CLASSES.index("clean"), CLASSES.index("dirty")  # the labels, also the model's outputs


@dataclass(frozen=True, order=True)
class Photo:
    """One photo: `name` is its path below the data folder, such as `val/clean/0007.jpg`; `label` is one of the two."""

    name: str
    label: int


class Origin(NamedTuple):
    """Where a photo is from."""

    group: str  # the car or session
    source: str = ""  # the camera, yard or customer, where split_check.source_regex is set


class Predictions(NamedTuple):
    """What eval predicted of the photos of a split, and their origins, `[N]` each."""

    names: NDArray[np.str_]
    is_clean: NDArray[np.bool_]
    p_clean: NDArray[np.float64]
    measures: NDArray[np.float64]  # `[N, 4]`, as Measures has them
    groups: NDArray[np.str_]
    sources: NDArray[np.str_]

    def usable(self, limits: Limits) -> NDArray[np.bool_]:
        """Whether each photo keeps the limits, `[N]`."""
        return np.array([limits.reason(Measures(*row)) is None for row in self.measures.tolist()])

    def within(self, limits: Limits) -> Predictions:
        kept = self.usable(limits)
        return self._replace(**{name: values[kept] for name, values in self._asdict().items()})


def list_photos(root: Path, split: str) -> list[Photo]:
    """The photos of one split in a fixed order. Raises StageError for a missing, unreadable or empty class folder."""
    found = []
    for label, class_name in enumerate(CLASSES):
        folder = root / split / class_name
        photos = [Photo(_name(path, root), label) for path in _files(folder)]
        if not photos:
            raise StageError(
                f"{folder} holds no photos; the layout is {root}/{{{','.join(SPLITS)}}}/{{{','.join(sorted(CLASSES))}}}"
            )
        found += photos
    return sorted(found)


def usable_photos(root: Path, split: str) -> list[Photo]:
    """`list_photos` without those that split_check leaves out. Raises StageError where none of a class is left."""
    excluded = set(read_csv(EXCLUSIONS, lambda row: row["path"]))
    photos = [photo for photo in list_photos(root, split) if photo.name not in excluded]
    for label, class_name in enumerate(CLASSES):
        if not any(photo.label == label for photo in photos):
            raise StageError(f"every photo of {root / split / class_name} is left out by {EXCLUSIONS}; see its reasons")
    return photos


def train_photos() -> dict[Photo, Origin]:
    """The train photos that are used, in a fixed order, with the origin of each; what split_check found in val and test
    does not change them. Raises StageError where the list is missing or damaged."""

    def parse(row: dict[str, str]) -> tuple[Photo, Origin]:
        label = CLASSES.index(row["path"].split("/")[1])
        return Photo(row["path"], label), Origin(row["group"], row["source"])

    return dict(read_csv(TRAIN_PHOTOS, parse))


def read_origins(names: Sequence[str]) -> list[Origin]:
    """The origin of each photo. Raises StageError naming the file, or a photo it lacks."""
    return rows_of(names, GROUPS, lambda row: Origin(row["group"], row["source"]))


def rows_of(names: Sequence[str], path: Path, parse: Callable[[dict[str, str]], T]) -> list[T]:
    """What `parse` makes of the row of each photo in a CSV. Raises StageError naming the file, or a photo it lacks."""
    found = dict(read_csv(path, lambda row: (row["path"], parse(row))))
    if missing := [name for name in names if name not in found]:
        raise StageError(f"{path} has no row for {missing[0]}; run `dvc repro split_check`")
    return [found[name] for name in names]


def read_predictions(split: str) -> Predictions:
    """The predictions of a split. Raises StageError naming file and row."""

    def parse(row: dict[str, str]) -> tuple[Any, ...]:
        is_clean, p_clean = CLASSES.index(row["label"]) == CLEAN_LABEL, float(row["p_clean"])
        if not 0 <= p_clean <= 1:
            raise ValueError(f"p_clean is {p_clean}, not in [0, 1]")
        return row["path"], is_clean, p_clean, [float(row[x]) for x in Measures._fields], row["group"], row["source"]

    path = PREDICTIONS / f"{split}.csv"
    rows = read_csv(path, parse)
    if not rows:
        raise StageError(f"{path} holds no predictions; `dvc repro eval` makes it")
    return Predictions(*map(np.array, zip(*rows, strict=True)))


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:  # as from old archives; no list of photos could hold it
        raise StageError(f"{root}: the name {os.fsencode(name)!r} is not UTF-8; rename the file") from error
    return name


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones (.DS_Store, .gitignore); photos may lie in sub-folders."""

    def refuse(error: OSError) -> None:
        raise StageError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if Path(parent, name).is_symlink():
                raise StageError(f"{parent}/{name} is a link to a folder, which is not followed; put the photos there")
        yield from (Path(parent, name) for name in names if not name.startswith("."))
