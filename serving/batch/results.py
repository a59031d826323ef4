"""Rows -> a file in the format that its name ends in; .jsonl and .parquet appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from serving.batch.photos import extra
from serving.batch.resume import csv_bytes, to_csv
from serving.batch.scorer import Row
from serving.engine.deployment import Deployment
from serving.verdict.errors import UserError
from serving.whole import whole

ENDINGS = (".csv", ".jsonl", ".parquet")
GROUP = 10_000  # rows in a row group of Parquet

Write = Callable[[Row], object]


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
    """Gives the function that writes a row; a CSV begins with what is `done`. Raises UserError."""
    try:
        if out.suffix == ".csv":
            with _csv(out, done) as write:
                yield write
            return
        with whole(out) as file, (_jsonl if out.suffix == ".jsonl" else _parquet)(file, deployment) as write:
            yield write
    except OSError as error:  # of reading a photo, its row tells
        left = "; what it holds stays, --resume adds the rest" if out.suffix == ".csv" and out.is_file() else ""
        raise UserError(f"cannot write {out}: {error.strerror}{left}") from error


@contextmanager
def _csv(out: Path, done: Sequence[Row]) -> Generator[Write, None, None]:
    with whole(out) as before:  # what an earlier run left is never half there
        before.write(csv_bytes([Row._fields, *map(to_csv, done)]))
    with out.open("ab") as file:

        def write(row: Row) -> None:
            file.write(csv_bytes([to_csv(row)]))
            file.flush()

        yield write
        os.fsync(file.fileno())


@contextmanager
def _jsonl(file: BinaryIO, deployment: Deployment) -> Generator[Write, None, None]:
    common = {"certified": deployment.certified, "model": deployment.version}
    yield lambda row: file.write(json.dumps(row._asdict() | common).encode() + b"\n")


@contextmanager
def _parquet(file: BinaryIO, deployment: Deployment) -> Generator[Write, None, None]:
    rows: list[Row] = []
    number = 0
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
