"""Gate: are the photos fit to train on? Layout, class counts, unreadable files, exact duplicates.

Writes reports/split_check.json: the counts, and `data_version`, a hash of every photo's place and content. The same
photos give the same file, so nothing after it reruns.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from serving.cores import usable_cores
from serving.decision import CLASSES
from serving.image import PhotoError, decode
from stages.common.data import SPLITS, Photo, list_photos
from stages.common.errors import StageError, run_stage
from stages.common.params import Data, load, strict
from stages.common.reports import write_json

REPORT = Path("reports/split_check.json")
PROBE_SIZE = 64  # every byte of a photo is decoded whatever the size; a small one is quick


@strict
class SplitCheckParams:
    """The section `split_check`."""

    on_duplicate: Literal["fail", "warn"]


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
    split_check: SplitCheckParams


@dataclass(frozen=True)
class Seen:
    """One photo, the sha256 of its bytes, and why it cannot be read (None: it can)."""

    photo: Photo
    sha256: str
    problem: str | None


def look(root: Path, photo: Photo) -> Seen:
    """Hash and decode one photo."""
    try:
        content = (root / photo.name).read_bytes()
    except OSError as error:
        return Seen(photo, "", str(error.strerror))
    digest = hashlib.sha256(content).hexdigest()
    try:
        decode(content, PROBE_SIZE)
    except PhotoError as error:
        return Seen(photo, digest, str(error))
    return Seen(photo, digest, None)


def duplicates(seen: Iterable[Seen]) -> dict[str, list[list[str]]]:
    """Groups of names with the same bytes, by what is wrong: `conflict` (both labels), `leak` (several splits),
    `within` (one split, one label). A group stands under the first that fits."""
    by_content: dict[str, list[Photo]] = defaultdict(list)
    for one in seen:
        if one.sha256:
            by_content[one.sha256].append(one.photo)
    groups: dict[str, list[list[str]]] = {"conflict": [], "leak": [], "within": []}
    for photos in by_content.values():
        if len(photos) < 2:
            continue
        splits = {photo.name.split("/")[0] for photo in photos}
        labels = {photo.label for photo in photos}
        kind = "conflict" if len(labels) > 1 else "leak" if len(splits) > 1 else "within"
        groups[kind].append(sorted(photo.name for photo in photos))
    return {kind: sorted(found) for kind, found in groups.items()}


def report(seen: list[Seen], groups: dict[str, list[list[str]]]) -> dict[str, Any]:
    """The content of split_check.json."""
    version = hashlib.sha256()
    for one in sorted(seen, key=lambda one: one.photo):
        version.update(f"{one.photo.name} {one.sha256}\n".encode())
    return {
        "data_version": version.hexdigest(),
        "photos": {
            split: {
                label: sum(one.photo.name.startswith(f"{split}/{label}/") for one in seen) for label in sorted(CLASSES)
            }
            for split in SPLITS
        },
        "unreadable": sum(one.problem is not None for one in seen),
        "duplicates": {kind: len(found) for kind, found in groups.items()},
    }


def violations(seen: list[Seen], groups: dict[str, list[list[str]]], root: Path) -> dict[str, list[str]]:
    """What stands against training, as headings (what it is and what to do) with the files under each."""
    broken = [f"{root / one.photo.name}: {one.problem}" for one in seen if one.problem is not None]
    listed = {
        kind: [" = ".join(str(root / name) for name in group) for group in found] for kind, found in groups.items()
    }
    found = {
        "unreadable files; replace or remove them": broken,
        "the same photo with both labels; keep it under the right one": listed["conflict"],
        "the same photo in several splits, which makes every score too good; keep it in one": listed["leak"],
        "the same photo twice in one folder; remove one, or set split_check.on_duplicate: warn": listed["within"],
    }
    return {heading: files for heading, files in found.items() if files}


def main() -> None:
    """Look at every photo, write the report; stop the pipeline where a photo stands against training."""
    params = load(Params)
    root = Path(params.data.root)
    photos = [photo for split in SPLITS for photo in list_photos(root, split)]
    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing and decoding both release the GIL
        seen = list(tqdm(pool.map(look, repeat(root), photos), total=len(photos), desc="photos", disable=None))
    groups = duplicates(seen)
    found = violations(seen, groups, root)
    text = "\n".join(f"{len(files)} {heading}:\n  " + "\n  ".join(files) for heading, files in found.items())
    only_within = len(groups["within"]) == sum(len(files) for files in found.values())
    if found and not (only_within and params.split_check.on_duplicate == "warn"):
        raise StageError(
            f"the photos in {root} are not fit to train on\n{text}\nThen `dvc add {root}` and `dvc repro`."
        )
    if found:
        print(f"WARNING: {text}")
    write_json(REPORT, report(seen, groups))


if __name__ == "__main__":
    run_stage("split_check", main)
