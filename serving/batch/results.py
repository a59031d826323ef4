"""Rows -> a file in the format that its name ends in; .jsonl and .parquet appear whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.batch.photos import extra
from serving.batch.resume import to_csv
from serving.batch.scorer import Row
from serving.engine.deployment import Deployment
from serving.verdict.errors import UserError

ENDINGS = (".csv", ".jsonl", ".parquet")
GROUP = 10_000  # rows in a row group of Parquet

Write = Callable[[Row], object]


class WriteError(UserError):
    """A file of results that cannot be written, or not to its end."""


def table(rows: Sequence[Row], ids: Sequence[int], deployment: Deployment) -> Any:
    """Rows as an Arrow table. Paths that are not UTF-8 have their other bytes escaped."""
    pa = extra("pyarrow")
    schema = {
        "id": pa.int64(), "path": pa.string(), "label": pa.string(), "p_clean": pa.float32(),
        "threshold": pa.float64(), "certified": pa.bool_(), "error": pa.string(), "model": pa.string(),
    }  # fmt: skip
    columns = [
        ids,
        [row.path.encode(errors="surrogateescape").decode(errors="backslashreplace") for row in rows],
        [row.label or None for row in rows],
        [row.p_clean for row in rows],
        [row.threshold for row in rows],
        [deployment.certified] * len(rows),
        [row.error or None for row in rows],
        [deployment.version] * len(rows),
    ]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.values(), strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(schema.items())))


@contextmanager
def writing(out: Path, deployment: Deployment, done: Sequence[Row] = ()) -> Generator[Write, None, None]:
    """Gives the function that writes a row; a CSV begins with what is `done`. Raises WriteError."""
    try:
        if out.suffix == ".csv":
            with _csv(out, done) as write:
                yield write
            return
        start = out.with_name(f".{out.name}.part")
        with (_jsonl if out.suffix == ".jsonl" else _parquet)(start, deployment) as write:
            yield write
        start.replace(out)
    except OSError as error:  # of reading a photo, its row tells
        left = "; what it holds stays, --resume adds the rest" if out.suffix == ".csv" else ""
        raise WriteError(f"cannot write {out}: {error.strerror}{left}") from error


@contextmanager
def _csv(out: Path, done: Sequence[Row]) -> Generator[Write, None, None]:
    start = out.with_name(out.name + ".part")
    with start.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([Row._fields, *map(to_csv, done)])
        _sync(file)
    start.replace(out)  # what an earlier run left is never half there
    with out.open("a", newline="", encoding="utf-8", errors="surrogateescape", buffering=1) as file:
        writer = csv.writer(file)
        yield lambda row: writer.writerow(to_csv(row))
        _sync(file)


@contextmanager
def _jsonl(start: Path, deployment: Deployment) -> Generator[Write, None, None]:
    common = {"certified": deployment.certified, "model": deployment.version}
    with start.open("w", encoding="utf-8") as file:
        yield lambda row: file.write(json.dumps(row._asdict() | common) + "\n")
        _sync(file)


@contextmanager
def _parquet(start: Path, deployment: Deployment) -> Generator[Write, None, None]:
    rows: list[Row] = []
    number = 0
    with start.open("wb") as file:
        with extra("pyarrow.parquet").ParquetWriter(file, table([], [], deployment).schema, compression="zstd") as to:

            def flush() -> None:
                nonlocal number
                to.write_table(table(rows, range(number, number + len(rows)), deployment))
                number += len(rows)
                rows.clear()

            def write(row: Row) -> None:
                rows.append(row)
                if len(rows) == GROUP:
                    flush()

            yield write
            flush()
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
