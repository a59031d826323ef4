"""How far a job is, its totals and its rows, by what lies in its folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from serving.batch import manifest
from serving.batch.folder import JOB, Folder
from serving.batch.job import PART, SUCCESS, part
from serving.batch.scorer import Row
from serving.inference.verdict.errors import UserError
from serving.stores import Photo, extra, failing, open_file, parsing

FOOTER = 64 * 1024  # bytes read at once of a part whose totals are wanted
READERS = 32  # of footers
RECENT = 20  # parts that the rate is taken from


class Status(NamedTuple):
    """How far a job is. `photos` is None while the sources are being listed."""

    photos: int | None
    shards: int
    parts: int
    counts: Counter[str]
    per_second: float | None

    def words(self) -> str:
        scored = self.counts.total()
        of = f"{self.photos:,}" if self.photos is not None else "a number still being listed"
        rate = f"{self.per_second:.1f} photos/s" if self.per_second else "no rate yet"
        if self.per_second and self.photos is not None and self.photos > scored:
            rate += f", {(self.photos - scored) / self.per_second / 3600:.2f} h left"
        return f"{self.parts} of {self.shards} parts, {scored:,} of {of} photos, {describe(self.counts)}; {rate}"


def read(folder: Folder) -> Status:
    """How far a job is, by what lies in its folder; the rate is that of the last 20 parts. Raises UserError."""
    if folder.read_json(JOB) is None:
        raise UserError(f"{folder.at(JOB)} is missing: this is no job's folder")
    totals = manifest.totals(folder)
    parts = sorted((modified, name) for name, modified in folder.files().items() if PART.fullmatch(name))
    with ThreadPoolExecutor(READERS) as pool:
        counted = list(pool.map(lambda part: _counts(folder, part[1]), parts))
    counts = sum(counted, Counter[str]())
    recent = counted[-RECENT:]
    elapsed = parts[-1][0] - parts[-len(recent)][0] if parts else 0
    rate = sum(part.total() for part in recent[1:]) / elapsed if elapsed > 0 else None
    shards = totals.shards if totals else len(manifest.segments(folder))
    return Status(totals.photos if totals else None, shards, len(parts), counts, rate)


def finish(folder: Folder) -> Counter[str]:
    """Write _SUCCESS if all parts are there. Returns the totals so far."""
    now = read(folder)
    if now.photos is not None and now.parts == now.shards:
        folder.write_json(SUCCESS, {"photos": now.photos, "parts": now.parts, **now.counts})
    return now.counts


def describe(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {label}" for label, number in sorted(counts.items())) or "none"


def _counts(folder: Folder, name: str) -> Counter[str]:
    place = folder.at(name)
    with failing(f"cannot read {place}"), open_file(place, FOOTER) as file, parsing(place):
        return Counter(json.loads(extra("pyarrow.parquet").read_schema(file).metadata[b"counts"]))


def results(folder: Folder) -> Iterator[tuple[Photo, Row]]:
    """The photos of a job with their rows, in order; shards without a part are left out."""
    done = folder.files()
    totals = manifest.totals(folder)
    for shard in range(totals.shards if totals else 0):
        if part(shard) in done:
            photos = manifest.read_segment(folder, shard)[1]
            rows = folder.read_table(part(shard), list(Row._fields[1:])).to_pylist()
            for photo, row in zip(photos, rows, strict=True):
                yield photo, Row(photo.path, row["label"] or "", row["p_clean"], row["threshold"], row["error"] or "")
