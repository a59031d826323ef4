"""The photos of a job, listed once: a Parquet file for each shard, written while the sources are listed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import islice
from typing import Any, NamedTuple

from serving.batch.folder import Folder
from serving.inference.verdict.errors import UserError
from serving.stores import Photo, extra, parsing

SEGMENTS, TOTALS = "manifest", "_manifest.json"


class Totals(NamedTuple):
    """How many photos a job has, in how many shards."""

    photos: int
    shards: int


def totals(folder: Folder) -> Totals | None:
    """None until all sources are listed."""
    content = folder.read_json(TOTALS)
    with parsing(folder.at(TOTALS)):
        return None if content is None else Totals(**content)


def segment(shard: int) -> str:
    return f"{SEGMENTS}/{shard:06}.parquet"


def segments(folder: Folder) -> list[int]:
    """The shards that are listed so far."""
    names = (name.removesuffix(".parquet") for name in folder.files(SEGMENTS))
    return [int(name) for name in names if name.isdecimal()]  # whatever else a desktop has put there


def read_segment(folder: Folder, shard: int) -> tuple[list[int], list[Photo]]:
    columns = folder.read_table(segment(shard)).to_pydict()
    with parsing(folder.at(segment(shard))):
        parts = zip(columns["path"], columns["location"], columns["offset"], columns["size"], strict=True)
        photos = [Photo(os.fsdecode(path), os.fsdecode(place or path), *rest) for path, place, *rest in parts]
        return columns["id"], photos


def write(folder: Folder, photos: Iterable[Photo], size: int) -> Totals:
    """List the photos into segments of `size`. Segments of a listing that was interrupted must be the same again.

    Raises UserError where a source has changed since, for its photos would be scored twice or never.
    """
    left, count, shard = iter(photos), 0, 0
    while listed := list(islice(left, size)):
        new = folder.write_table(segment(shard), _table(listed, count))
        if not new and read_segment(folder, shard)[1] != listed:
            raise UserError(
                f"the sources have changed since {folder.at(segment(shard))} was listed, which was interrupted; "
                "choose another --out, or delete this one"
            )
        count, shard = count + len(listed), shard + 1
    result = Totals(count, shard)
    folder.write_json(TOTALS, result._asdict())
    return result


def _table(photos: list[Photo], first: int) -> Any:
    """Paths are binary, as Linux has them."""
    pa = extra("pyarrow")
    places = [os.fsencode(photo.location) if photo.location != photo.path else None for photo in photos]
    return pa.table(
        {
            "id": pa.array(range(first, first + len(photos)), pa.int64()),
            "path": pa.array([os.fsencode(photo.path) for photo in photos], pa.binary()),
            "location": pa.array(places, pa.binary()),
            "offset": pa.array([photo.offset for photo in photos], pa.int64()),
            "size": pa.array([photo.size for photo in photos], pa.int64()),
        }
    )


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
