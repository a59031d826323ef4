"""Lists of photos: a text file's lines, or a column of a CSV or Parquet file, an S3 inventory's too."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, urlsplit

from serving.batch.photos import Photo, ReadError, extra, open_file, reading
from serving.verdict.errors import UserError

LISTS = (".txt", ".csv", ".parquet")
COLUMNS = ("path", "url", "location")  # of a list, unless --column names another


def listed(name: str, column: str | None = None) -> Iterator[Photo]:
    """The photos of a list. Raises UserError."""
    for entry in _entries(name, column):
        yield Photo(entry, unquote(urlsplit(entry).path) if entry.startswith("file://") else entry)


def _entries(name: str, column: str | None = None) -> Iterator[str]:
    """The paths and URLs of a list: a text file's lines, or a column of a CSV or Parquet file.

    Columns `bucket` and `key`, of an S3 inventory, make one too. Raises UserError.
    """
    try:
        with open_file(name) as file, reading():
            if name.endswith(".parquet"):
                table = extra("pyarrow.parquet").ParquetFile(file)
                wanted = _columns(name, table.schema_arrow.names, column)
                for batch in table.iter_batches(columns=wanted):
                    values = zip(*(part.to_pylist() for part in batch.columns), strict=True)
                    yield from (_joined(row, *range(len(wanted))) for row in values)
                return
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            if name.endswith(".txt"):
                yield from (line for line in map(str.strip, text) if line)
                return
            rows = csv.reader(text)
            header = next(rows, [])
            places = [header.index(name) for name in _columns(name, header, column)]
            yield from (_joined([*row, *[""] * len(header)], *places) for row in rows if row)
    except ReadError as error:
        raise UserError(f"{name}: {error.kind}: {error}") from None
    except (csv.Error, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{name} cannot be read: {error}") from None


def _columns(name: str, header: Sequence[str], column: str | None) -> list[str]:
    if column is None and {"bucket", "key"} <= set(header):
        return ["bucket", "key"]
    for wanted in COLUMNS if column is None else (column,):
        if wanted in header:
            return [wanted]
    raise UserError(f"{name} has no column {column or ' or '.join(COLUMNS)}, only {', '.join(header)}; see --column")


def _joined(row: Sequence[object], *places: int) -> str:
    """A list's entry; an empty one stays, and gets a row with an error."""
    values = [os.fsdecode(value) if isinstance(value := row[place], bytes) else str(value or "") for place in places]
    return values[0] if len(values) == 1 else f"s3://{values[0]}/{values[1]}"
