"""reports/split_check.json: the gate. Small, and rounded so far that an unchanged verdict is an unchanged file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from serving.verdict.rule import CLASSES
from stages.common.base.files import csv_bytes
from stages.split_check.check import Checked
from stages.split_check.groups import EXACT, Group
from stages.split_check.scan import Scanned


def report(checked: Checked) -> dict[str, Any]:
    """The content of the file."""
    exact = [group for group in checked.groups if group.how in EXACT]
    near = [group for group in checked.groups if group.how == "near"]
    of = {one.name: one for one in checked.scanned}
    return {
        "data_version": data_version(checked.usable),
        "train_version": hashlib.sha256(train_photos(checked)).hexdigest(),
        "photos": count_photos(checked.scanned),
        "unreadable": sum(one.problem is not None for one in checked.scanned),
        "odd": _counted(text.split(":")[0] for one in checked.scanned for text in one.oddities),
        "duplicates": {"exact": _by_kind(exact), "near": _by_kind(near)},
        "ids_in_several_splits": sum(group.how == "id" for group in checked.groups),
        "excluded": _counted(f"{of[one.path].split}: {one.defect}" for one in checked.excluded),
        "kept_in_test": {ruling.defect: ruling.kept_in_test for ruling in checked.rulings if ruling.policy == "drop"},
        "shortcut_auc": {one.feature: round(one.auc, 2) for one in checked.shortcuts},
        "drift": {
            one.of: {"photos": one.counts, "effect": None if one.effect is None else round(one.effect, 3)}
            for one in checked.drift
        },
        "poor_quality": {kind: len(photos) for kind, photos in checked.poor.items()},
    }


def train_photos(checked: Checked) -> bytes:
    """A CSV of the train photos that are used, with their groups, each named after its first photo among them, so
    that no change in val or test changes it."""
    group_named: dict[str, str] = {}
    rows = []
    for one in sorted(checked.usable, key=lambda one: one.name):
        if one.split == "train":
            rows.append((one.name, group_named.setdefault(checked.group_of[one.name], one.name), one.sha256))
    return csv_bytes(["path", "group", "sha256"], rows)


def data_version(usable: Iterable[Scanned]) -> str:
    """A hash of the place and content of every photo that is used."""
    version = hashlib.sha256()
    for one in sorted(usable, key=lambda one: one.name):
        version.update(f"{one.name} {one.sha256}\n".encode())
    return version.hexdigest()


def count_photos(scanned: Sequence[Scanned]) -> dict[str, dict[str, int]]:
    """split -> label -> photos."""
    count = Counter((one.split, CLASSES[one.photo.label]) for one in scanned)
    splits = dict.fromkeys(one.split for one in scanned)
    return {split: {label: count[split, label] for label in sorted(CLASSES)} for split in splits}


def _by_kind(groups: Iterable[Group]) -> dict[str, int]:
    count = Counter(group.kind for group in groups)
    return {kind: count[kind] for kind in ("conflict", "leak", "within")}


def _counted(texts: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(texts).items()))
