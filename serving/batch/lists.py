"""Photos that a file names or holds: a list's lines or column, an S3 inventory's too, and the members of an archive."""

from __future__ import annotations

import csv
import io
import logging
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from serving.inference.verdict.errors import UserError
from serving.stores import UNAVAILABLE, Photo, ReadError, extra, failing, open_file, parsing, reading

log = logging.getLogger(__name__)

LISTS = (".txt", ".csv", ".parquet")
COLUMNS = ("path", "url", "location")  # of a list, unless --column names another
SIDECARS = (".json", ".txt", ".cls", ".csv", ".xml", ".yaml", ".yml")  # beside the photos of a tar archive


def local(url: str) -> str:
    """The path that a file:// URL names; anything else as it is."""
    return unquote(urlsplit(url).path) if url.startswith("file://") else url


def listed(name: str, column: str | None = None) -> Iterator[Photo]:
    """The photos of a list: a text file's lines, or a column of a CSV or Parquet file.

    Columns `bucket` and `key`, of an S3 inventory, make one too. Raises UserError.
    """
    entries = {".parquet": _parquet, ".csv": _csv}.get(os.path.splitext(name)[1].lower(), _text)
    with failing(name), open_file(name) as file, parsing(name):
        for entry in entries(name, file, column):
            yield Photo(entry, local(entry))


def _text(_: str, file: BinaryIO, __: str | None) -> Iterator[str]:
    yield from (line for line in map(str.strip, _decoded(file)) if line)


def _csv(name: str, file: BinaryIO, column: str | None) -> Iterator[str]:
    rows = csv.reader(_decoded(file))
    header = next(rows, [])
    places = [header.index(name) for name in _columns(name, header, column)]
    for row in rows:
        if row:
            yield _joined([row[place] if place < len(row) else "" for place in places])


def _parquet(name: str, file: BinaryIO, column: str | None) -> Iterator[str]:
    content = extra("pyarrow.parquet").ParquetFile(file)
    for batch in content.iter_batches(columns=_columns(name, content.schema_arrow.names, column)):
        yield from map(_joined, zip(*(part.to_pylist() for part in batch.columns), strict=True))


def _decoded(file: BinaryIO) -> Iterable[str]:
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _columns(name: str, header: Sequence[str], column: str | None) -> list[str]:
    if column is None and {"bucket", "key"} <= set(header):
        return ["bucket", "key"]
    for wanted in COLUMNS if column is None else (column,):
        if header.count(wanted) == 1:
            return [wanted]
    found = ", ".join(header[:20]) or "nothing"
    raise UserError(f"{name} has not one column {column or ' or '.join(COLUMNS)}, but {found}; see --column")


def _joined(values: Sequence[object]) -> str:
    """A list's entry; an empty one stays, and gets a row with an error."""
    parts = [os.fsdecode(value) if isinstance(value, bytes) else str(value or "") for value in values]
    return parts[0] if len(parts) == 1 else f"s3://{parts[0]}/{parts[1]}"


def members(name: str) -> Iterator[Photo]:
    """The photos of an uncompressed tar archive, as ranges of its bytes; a broken one gets a row with its error.

    Raises UserError where a store is unavailable.
    """
    try:
        with reading(), open_file(name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # of millions, none has to be remembered
                if archive.offset <= member.offset:
                    raise ReadError("unreadable", "a size below zero, which leads back to the same member for ever")
                hidden = os.path.basename(member.name).startswith(".")
                if hidden or member.name.lower().endswith(SIDECARS):
                    continue
                if member.isfile() or member.issym() or member.islnk():
                    # A link has no bytes of its own, a file with holes not all of them: its row says so.
                    size = member.size if member.isfile() and not member.issparse() else 0
                    yield Photo(f"{name}/{member.name}", name, member.offset_data, size)
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile takes damage for the end
                raise ReadError("unreadable", "the archive is damaged or cut short: photos may be missing")
    except (tarfile.TarError, ReadError, OverflowError, MemoryError) as error:  # a header may claim any size
        if isinstance(error, ReadError) and error.kind == UNAVAILABLE:
            raise UserError(f"{name}: {error}") from None
        log.warning("%s: %s", name, error or type(error).__name__)
        yield Photo(name, name)
