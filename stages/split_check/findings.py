"""artifacts/findings.json: all that is worth showing of what the check found, for the page and for people.

Bounded: lists hold at most their cap, `totals` and the sizes of groups say how many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from stages.common.base.errors import StageError
from stages.common.base.files import write_json
from stages.common.base.paths import ARTIFACTS
from stages.common.base.photos import DIRTY
from stages.split_check.check import Checked
from stages.split_check.drift import Drift
from stages.split_check.groups import EXACT, Group, Kind
from stages.split_check.near.search import CROWD
from stages.split_check.outlook import dirty_cars, outlook
from stages.split_check.quality import Poor
from stages.split_check.report import count_photos, data_version
from stages.split_check.shortcuts import Shortcut

FINDINGS = ARTIFACTS / "findings.json"
# Groups of each kind, names in each, photos named, poorest of each kind.
MAX_GROUPS, MAX_MEMBERS, MAX_NOTES, WORST = 1000, 50, 500, 50


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
    totals: dict[str, int]  # of unreadable, odd, excluded, each kind of group, crowd, and each kind of poor quality
    unreadable: tuple[Note, ...]
    odd: tuple[Note, ...]  # wrong type for the name, tiny, extreme aspect, decode warnings
    excluded: tuple[Note, ...]  # what artifacts/exclusions.csv lists, with the reasons
    groups: tuple[Group, ...]  # conflicts first, then leaks, copies within a split, scenes
    shortcuts: tuple[Shortcut, ...]
    drift: tuple[Drift, ...]
    poor: tuple[Poor, ...]  # the worst photos of each kind of poor quality, worst first
    outlook: str  # what val can prove at best, in words
    warnings: tuple[str, ...]  # what the stage warned of, in its words

    @classmethod
    def of(cls, checked: Checked, root: str) -> Findings:
        """What to show of `checked`, photos of which lie below `root`."""
        unreadable = [Note(one.name, one.problem) for one in checked.scanned if one.problem is not None]
        odd = [Note(one.name, text) for one in checked.scanned for text in one.oddities]
        kinds = Counter(group.kind for group in checked.groups)
        totals = {"unreadable": len(unreadable), "odd": len(odd), "excluded": len(checked.excluded)}
        totals |= {kind: kinds[kind] for kind in get_args(Kind)} | {"crowd": len(checked.crowd)}
        totals |= {kind: len(photos) for kind, photos in checked.poor.items()}
        return cls(
            root=root, data_version=data_version(checked.usable), photos=count_photos(checked.scanned), totals=totals,
            unreadable=tuple(unreadable[:MAX_NOTES]), odd=tuple(odd[:MAX_NOTES]),
            excluded=tuple(Note(one.path, one.reason) for one in checked.excluded[:MAX_NOTES]),
            groups=tuple(_bounded(checked.groups)), shortcuts=tuple(checked.shortcuts), drift=tuple(checked.drift),
            poor=tuple(one for photos in checked.poor.values() for one in photos[:WORST]),
            outlook=outlook(_dirty_cars(checked)), warnings=tuple(_warnings(checked)),
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


def _dirty_cars(checked: Checked) -> dict[str, int]:
    dirty = [one.name for one in checked.usable if one.photo.label == DIRTY]
    return dirty_cars(dirty, {one.name: one.split for one in checked.usable}, checked.group_of)


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
        yield f"groups of near copies within a split: {near}; each counts as one car where the threshold is chosen"
    scenes = sum(group.kind == "scene" for group in checked.groups)
    if scenes:
        yield (
            f"groups of photos with one background but other colours, as of different cars before one camera: {scenes}"
            "; nothing joins them, so look whether they show one car: split_check.group_regex can say so"
        )
    if checked.crowd:
        yield (
            f"{len(checked.crowd)} photos of one scene, as {checked.crowd[0]}, each like more than {CROWD} others, as "
            "from a fixed camera: near copies are not looked for among them, only exact ones"
        )
    odd = Counter(text.split(":")[0] for one in checked.scanned for text in one.oddities)
    if odd:
        yield "strange files, still used: " + ", ".join(f"{count} {kind}" for kind, count in sorted(odd.items()))
    for shortcut in checked.shortcuts:
        if shortcut.warn:
            yield (
                f"{shortcut.feature} tells clean from dirty with an AUC of {shortcut.auc:.2f}: a model would learn "
                "that instead of dirt; take both classes with the same cameras and settings"
            )
    for drift in checked.drift:
        if drift.warn:
            yield f"the mix of {drift.of} differs between the splits: {drift.counts}"
    poor = {kind: len(photos) for kind, photos in checked.poor.items() if photos}
    if poor:
        yield "poor photos, still used: " + ", ".join(f"{count} {kind}" for kind, count in poor.items())
