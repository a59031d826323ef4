"""Can the classes be told apart by what has nothing to do with dirt? A model would learn that instead."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from stages.common.base.photos import CLEAN_LABEL
from stages.split_check.groups import id_of
from stages.split_check.scan import PhotoStats, ScannedPhoto

FOLDS = 5
MAX_PHOTOS = 20_000  # of the larger class; more do not sharpen an AUC that is compared with a limit
MAX_SOURCES = 100
TOGETHER = "all together"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shortcut:
    """How well one trivial feature tells clean from dirty."""

    feature: str
    auc: float  # cross-validated by group; 0.5 is chance
    warn: bool  # above split_check.shortcut_auc_warn


def find_shortcuts(
    scanned: Sequence[ScannedPhoto], group: dict[str, str], source_regex: str | None, limit: float
) -> list[Shortcut]:
    """The AUC of each trivial feature, and of all together, on photos that the fit has not seen.

    `group` says which photos belong together: they are never on both sides of a fold. Empty where a class has fewer
    groups than there are folds.
    """
    photos = _thinned([one for one in scanned if one.stats is not None])
    is_clean = np.array([one.photo.label == CLEAN_LABEL for one in photos])
    cars = np.unique([group[one.name] for one in photos], return_inverse=True)[1]
    if min(len(np.unique(cars[is_clean == label])) for label in (False, True)) < FOLDS:
        return []
    columns = _features(photos, source_regex)
    columns[TOGETHER] = np.hstack(list(columns.values()))
    aucs = {name: _auc(values, is_clean, cars) for name, values in columns.items()}
    return [Shortcut(name, auc, auc > limit) for name, auc in aucs.items()]


def _thinned(photos: list[ScannedPhoto]) -> list[ScannedPhoto]:
    """At most MAX_PHOTOS of each class, evenly spread: an AUC does not depend on the share of the classes."""
    kept = []
    for label in range(2):
        members = [one for one in photos if one.photo.label == label]
        step = max(1, math.ceil(len(members) / MAX_PHOTOS))
        kept += members[::step]
    return kept


def _features(photos: Sequence[ScannedPhoto], source_regex: str | None) -> dict[str, Floats]:
    def column(*of: float | None) -> list[float]:
        return [np.nan if value is None else float(value) for value in of]

    def per_photo(one: ScannedPhoto, stats: PhotoStats) -> dict[str, list[float]]:
        pixels = stats.width * stats.height
        return {
            "resolution": column(pixels, stats.width, stats.height),
            "aspect": column(stats.width / stats.height),
            "file size": column(one.bytes, one.bytes / pixels),
            "JPEG quality": column(stats.jpeg_quality),
            "EXIF": column(stats.exif),
            "mean colour": column(*stats.mean_colour),
            "border colour": column(*stats.border_colour),
        }

    rows = [per_photo(one, one.stats) for one in photos if one.stats is not None]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    if source_regex is not None:
        sources = [id_of(one.name, source_regex) or "" for one in photos]
        # A leaf cannot be smaller, so a smaller source tells nothing alone; a column for each would fill the memory.
        count = Counter(sources).most_common(MAX_SOURCES)
        known = [source for source, number in count if number >= _smallest_leaf(len(sources))]
        found["source"] = (np.array(sources)[:, None] == np.array(sorted(known), dtype=str)).astype(np.float64)
    return found


def _smallest_leaf(photos: int) -> int:
    return max(5, photos // 100)


def _auc(values: Floats, is_clean: NDArray[np.bool_], cars: NDArray[np.intp]) -> float:
    """Cross-validated AUC of a small tree on `values` `[N, F]`; a missing value is a value of its own to it.

    A fold that few large groups leave with one class only says nothing and is passed over.
    """
    aucs = []  # a fold's scores compare with each other only
    for fit, held in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(values, is_clean, cars):
        tree = DecisionTreeClassifier(
            max_leaf_nodes=16, min_samples_leaf=_smallest_leaf(len(fit)), class_weight="balanced", random_state=0
        )
        if is_clean[fit].any() and not is_clean[fit].all() and is_clean[held].any() and not is_clean[held].all():
            score = tree.fit(values[fit], is_clean[fit]).predict_proba(values[held])[:, 1]
            aucs.append(roc_auc_score(is_clean[held], score))
    return float(np.mean(aucs)) if aucs else 0.5
