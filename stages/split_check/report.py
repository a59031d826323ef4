"""What the check found, written down: reports/split_check.json and artifacts/findings.json.

The report is the gate: small, and rounded so far that an unchanged verdict is an unchanged file. The findings are for
the page and for people; their lists hold at most their cap, while `totals` and the groups say how many there are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError
from stages.common.base.files import write_json
from stages.common.base.paths import ARTIFACTS
from stages.common.base.photos import DIRTY_LABEL
from stages.split_check.check import Checked, PoorPhoto
from stages.split_check.drift import Drift
from stages.split_check.groups import EXACT, Group, Kind
from stages.split_check.lists import data_version, train_photos
from stages.split_check.near.search import MAX_NEIGHBOURS
from stages.split_check.outlook import outlook
from stages.split_check.scan import ScannedPhoto
from stages.split_check.shortcuts import Shortcut

FINDINGS = ARTIFACTS / "findings.json"
# Groups of each kind, names in each, photos named, poorest of each kind.
MAX_GROUPS, MAX_MEMBERS, MAX_NOTES, WORST = 1000, 50, 500, 50


def report(checked: Checked) -> dict[str, Any]:
    def by_kind(*hows: str) -> dict[str, int]:
        count = Counter(group.kind for group in checked.groups if group.how in hows)
        return {kind: count[kind] for kind in ("conflict", "leak", "within")}

    split_of = {one.name: one.split for one in checked.scanned}
    excluded = Counter(f"{split_of[one.path]}: {one.defect}" for one in checked.excluded)
    return {
        "data_version": data_version(checked.usable),
        "train_version": hashlib.sha256(train_photos(checked)).hexdigest(),
        "photos": count_photos(checked.scanned),
        "unreadable": sum(one.problem is not None for one in checked.scanned),
        "odd": _oddities(checked),
        "duplicates": {"exact": by_kind(*EXACT), "near": by_kind("near", "edited")},
        "ids_in_several_splits": sum(group.how == "id" for group in checked.groups),
        "cars_under_both_labels": cars_under_both_labels(checked),
        "excluded": dict(sorted(excluded.items())),
        "kept_in_test": {ruling.defect: ruling.kept_in_test for ruling in checked.rulings if ruling.policy == "drop"},
        "shortcut_auc": {one.feature: round(one.auc, 2) for one in checked.shortcuts},
        "drift": {
            one.of: {"photos": one.counts, "effect": None if one.effect is None else round(one.effect, 3)}
            for one in checked.drift
        },
        "poor_quality": {kind: len(photos) for kind, photos in checked.poor.items()},
    }


def count_photos(scanned: Sequence[ScannedPhoto]) -> dict[str, dict[str, int]]:
    """split -> label -> photos."""
    count = Counter((one.split, CLASSES[one.photo.label]) for one in scanned)
    splits = dict.fromkeys(one.split for one in scanned)
    return {split: {label: count[split, label] for label in sorted(CLASSES)} for split in splits}


def cars_under_both_labels(checked: Checked) -> int:
    """Cars with clean and dirty photos among those that are used: no defect, for each photo shows one side."""
    labels = {(checked.group_of[one.name], one.photo.label) for one in checked.usable}
    return len(labels) - len({car for car, _ in labels})


def _oddities(checked: Checked) -> dict[str, int]:
    """kind -> photos."""
    return dict(sorted(Counter(text.split(":")[0] for one in checked.scanned for text in one.oddities).items()))


@dataclass(frozen=True)
class Note:
    """A photo and what is to be said of it."""

    name: str
    text: str


@dataclass(frozen=True)
class Findings:
    """What the check found; names are paths below `root`."""

    root: str  # data.root as params.yaml has it
    data_version: str
    photos: dict[str, dict[str, int]]  # split -> label -> count; the split is "" in a folder without splits
    totals: dict[str, int]  # of unreadable, odd, excluded, each kind of group, hubs, and each kind of poor quality
    unreadable: tuple[Note, ...]
    odd: tuple[Note, ...]  # wrong type for the name, extreme aspect, decode warnings
    excluded: tuple[Note, ...]  # what artifacts/exclusions.csv lists, with the reasons
    groups: tuple[Group, ...]  # conflicts first, then leaks, copies within a split, scenes
    shortcuts: tuple[Shortcut, ...]
    drift: tuple[Drift, ...]
    poor: tuple[PoorPhoto, ...]  # the worst photos of each kind of poor quality, worst first
    outlook: str  # what val can prove at best, in words
    warnings: tuple[str, ...]  # what the stage warned of, in its words

    @classmethod
    def of(cls, checked: Checked, root: str) -> Findings:
        """What to show of `checked`, photos of which lie below `root`."""
        unreadable = [Note(one.name, one.problem) for one in checked.scanned if one.problem is not None]
        odd = [Note(one.name, text) for one in checked.scanned for text in one.oddities]
        kinds = Counter(group.kind for group in checked.groups)
        totals = {"unreadable": len(unreadable), "odd": len(odd), "excluded": len(checked.excluded)}
        totals |= {kind: kinds[kind] for kind in get_args(Kind)} | {"hubs": len(checked.hubs)}
        totals |= {kind: len(photos) for kind, photos in checked.poor.items()}
        dirty = ((one.split, checked.group_of[one.name]) for one in checked.usable if one.photo.label == DIRTY_LABEL)
        return cls(
            root=root, data_version=data_version(checked.usable), photos=count_photos(checked.scanned), totals=totals,
            unreadable=tuple(unreadable[:MAX_NOTES]), odd=tuple(odd[:MAX_NOTES]),
            excluded=tuple(Note(one.path, one.reason) for one in checked.excluded[:MAX_NOTES]),
            groups=tuple(_bounded(checked.groups)), shortcuts=tuple(checked.shortcuts), drift=tuple(checked.drift),
            poor=tuple(one for photos in checked.poor.values() for one in photos[:WORST]),
            outlook=outlook(dirty), warnings=tuple(_warnings(checked)),
        )  # fmt: skip

    def write(self, path: Path = FINDINGS) -> None:
        """Write it; the same findings give the same bytes."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path = FINDINGS) -> Findings:
        """Read it back. Raises StageError for a file that is missing or not of this make."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StageError(f"cannot read {path}: {error}; `dvc repro split_check` makes it") from error


def _bounded(groups: Sequence[Group]) -> Iterator[Group]:
    """The first MAX_GROUPS of each kind, each cut to MAX_MEMBERS names."""
    for kind in get_args(Kind):
        yield from islice((group.cut(MAX_MEMBERS) for group in groups if group.kind == kind), MAX_GROUPS)


def _warnings(checked: Checked) -> Iterator[str]:
    """What to say aloud where the pipeline goes on."""
    for ruling in checked.rulings:
        if ruling.policy == "drop":
            kept = f"; {ruling.kept_in_test} stay, since they are in test" if ruling.kept_in_test else ""
            yield f"{ruling}\nLeft out: {len(ruling.excluded)} photos{kept}"
        elif ruling.policy == "warn":
            yield str(ruling)
    near = sum(group.kind == "within" and group.how not in EXACT for group in checked.groups)
    if near:
        yield f"groups of near-duplicates within a split: {near}; the threshold counts each as one car"
    scenes = sum(group.kind == "scene" for group in checked.groups)
    if scenes:
        yield (
            "groups of photos with one background but different colours, as of different cars before one camera: "
            f"{scenes}; they are not grouped. Where they show one car, set data.car_regex"
        )
    if checked.hubs:
        yield (
            f"{len(checked.hubs)} photos, such as {checked.hubs[0]}, each resemble more than {MAX_NEIGHBOURS} others, "
            "as from a fixed camera; they are checked for exact duplicates only"
        )
    if odd := _oddities(checked):
        yield "strange files, still used: " + ", ".join(f"{count} {kind}" for kind, count in odd.items())
    for shortcut in checked.shortcuts:
        if shortcut.warn:
            yield (
                f"shortcut: {shortcut.feature} tells clean from dirty with an AUC of {shortcut.auc:.2f}. A model would "
                "learn it instead of dirt; take both classes with the same cameras and settings"
            )
    for drift in checked.drift:
        if drift.warn:
            yield f"the distribution of {drift.of} differs between the splits: {drift.counts}"
    poor = {kind: len(photos) for kind, photos in checked.poor.items() if photos}
    if poor:
        yield "poor photos, still used: " + ", ".join(f"{count} {kind}" for kind, count in poor.items())
