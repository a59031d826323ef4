"""What the stages after read of the photos: which train, car and source of each, trivial features, their version."""

import hashlib
from collections.abc import Iterable

from stages.common.base.files import csv_bytes
from stages.split_check.check import Checked
from stages.split_check.scan import ScannedPhoto


def train_photos(checked: Checked) -> bytes:
    """A CSV of the train photos that are used, with their sources, and their groups, each named after its first photo
    among them, so that no change in val or test changes it."""
    group_named: dict[str, str] = {}
    rows = []
    for one in sorted(checked.usable, key=lambda one: one.name):
        if one.split == "train":
            group = group_named.setdefault(checked.group_of[one.name], one.name)
            rows.append((one.name, group, checked.source_of(one.name), one.sha256))
    return csv_bytes(["path", "group", "source", "sha256"], rows)


def groups(checked: Checked) -> bytes:
    """A CSV of all photos with their groups and sources."""
    rows = ((name, group, checked.source_of(name)) for name, group in sorted(checked.group_of.items()))
    return csv_bytes(["path", "group", "source"], rows)


def features(checked: Checked) -> bytes:
    """A CSV of the photos that are used, with what has nothing to do with dirt, for eval."""
    rows = []
    for one in checked.usable:
        if (stats := one.stats) is not None:
            pixels = stats.width * stats.height
            brightness, border = (round(sum(colour) / 3, 2) for colour in (stats.mean_colour, stats.border_colour))
            rows.append((
                one.name, pixels, round(stats.width / stats.height, 4), one.bytes,
                round(one.bytes / pixels, 5), stats.jpeg_quality, int(stats.exif), brightness, border,
            ))  # fmt: skip
    header = ("path", "resolution", "aspect", "file size", "bytes per pixel", "JPEG quality", "EXIF")
    return csv_bytes([*header, "brightness", "border brightness"], rows)


def data_version(usable: Iterable[ScannedPhoto]) -> str:
    """A hash of the place and content of every photo that is used."""
    version = hashlib.sha256()
    for one in sorted(usable, key=lambda one: one.name):
        version.update(f"{one.name} {one.sha256}\n".encode())
    return version.hexdigest()
