"""The photos of a job, listed once: a Parquet file for each shard, written while the sources are listed."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple

from serving.batch.folder import Folder, parsing
from serving.batch.photos import Photo, extra
from serving.batch.sources import URLS
from serving.verdict.errors import UserError

SEGMENTS, TOTALS = "manifest", "_manifest.json"


class Totals(NamedTuple):
    """How many photos a job has, in how many shards."""

    photos: int
    shards: int


def totals(folder: Folder) -> Totals | None:
    """None until all sources are listed."""
    content = folder.read(TOTALS)
    with parsing(folder.at(TOTALS)):
        return None if content is None else Totals(**json.loads(content))


def segment(shard: int) -> str:
    return f"{SEGMENTS}/{shard:06}.parquet"


def segments(folder: Folder) -> list[int]:
    """The shards that are listed so far."""
    return [int(name.partition(".")[0]) for name in folder.files(SEGMENTS)]


def read_segment(folder: Folder, shard: int) -> tuple[list[int], list[Photo]]:
    content = folder.read(segment(shard))
    if content is None:
        raise UserError(f"{folder.at(segment(shard))} is missing")
    with parsing(folder.at(segment(shard))):
        columns = extra("pyarrow.parquet").read_table(io.BytesIO(content)).to_pydict()
    parts = zip(columns["path"], columns["location"], columns["offset"], columns["size"], strict=True)
    return columns["id"], [Photo(os.fsdecode(path), os.fsdecode(place or path), *rest) for path, place, *rest in parts]


def write(folder: Folder, photos: Iterable[Photo], size: int) -> Totals:
    """List the photos into segments of `size`. Segments of a listing that was interrupted must be the same again.

    Raises UserError where a source has changed since, for its photos would be scored twice or never.
    """
    left, count, shard = iter(photos), 0, 0
    while listed := list(islice(left, size)):
        content = _segment(listed, count)
        if not folder.write(segment(shard), content) and read_segment(folder, shard)[1] != _spelled(listed):
            raise UserError(
                f"the sources have changed since {folder.at(segment(shard))} was listed, which was interrupted; "
                "choose another --out, or delete this one"
            )
        count, shard = count + len(listed), shard + 1
    result = Totals(count, shard)
    folder.write(TOTALS, json.dumps(result._asdict()).encode())
    return result


def _spelled(photos: Iterable[Photo]) -> list[Photo]:
    """Photos whose local paths are absolute, so that every run reads the same files."""
    return [p if p.location.startswith(URLS) else p._replace(location=os.path.abspath(p.location)) for p in photos]


def _segment(listed: Iterable[Photo], first: int) -> bytes:
    """Paths are binary, as Linux has them."""
    pa, buffer = extra("pyarrow"), io.BytesIO()
    photos = _spelled(listed)
    table = pa.table(
        {
            "id": pa.array(range(first, first + len(photos)), pa.int64()),
            "path": pa.array([os.fsencode(photo.path) for photo in photos], pa.binary()),
            "location": pa.array(
                [os.fsencode(p.location) if p.location != p.path else None for p in photos], pa.binary()
            ),
            "offset": pa.array([photo.offset for photo in photos], pa.int64()),
            "size": pa.array([photo.size for photo in photos], pa.int64()),
        }
    )
    extra("pyarrow.parquet").write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def listing(folder: Folder, photos: Iterable[Photo], size: int) -> Future[Totals]:
    """`write` in the background, in a thread that ends with the program."""
    future: Future[Totals] = Future()

    def run() -> None:
        try:
            future.set_result(write(folder, photos, size))
        except BaseException as error:  # the one who waits for it raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
