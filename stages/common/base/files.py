"""Writing what a stage produces: whole or not at all, and the same bytes for the same content."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stages.common.base.errors import StageError

T = TypeVar("T")


def write_atomically(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write several files, all or none: each to a temporary name and flushed to disk, and only then all renamed.

    A full disk or a crash leaves the old files or none. Raises StageError naming the file that cannot be written.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    path = Path()
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            temporary[path].replace(path)
        for folder in {path.parent for path in contents}:
            _flush_names(folder)
    except OSError as error:
        raise StageError(f"cannot write {path}: {error.strerror}; nothing was left half-written") from error
    finally:
        for left in temporary.values():
            if left.exists():
                left.unlink()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write one file whole or not at all. Raises StageError naming it."""
    write_atomically({path: content})


def write_json(path: Path, content: Any) -> None:
    """Write `json_bytes` to a file. Raises StageError naming it."""
    write_bytes(path, json_bytes(content))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write `csv_bytes` to a file. Raises StageError naming it."""
    write_bytes(path, csv_bytes(header, rows))


def json_bytes(content: Any, *, digits: int | None = 6) -> bytes:
    """JSON; floats are rounded for people and for diffs, or kept whole where `digits` is None."""
    if digits is not None:
        content = json.loads(json.dumps(content), parse_float=lambda text: round(float(text), digits))
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """CSV; floats keep every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json(path: Path) -> Any:
    """Read a JSON file another stage wrote. Raises StageError naming it."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StageError(f"cannot read {path}: {error}; `dvc repro` makes it") from error


def read_csv(path: Path, parse: Callable[[dict[str, str]], T]) -> list[T]:
    """What `parse` makes of each row of a CSV that another stage wrote. Raises StageError naming file and row."""
    found = list[T]()
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise ValueError("it has no header")
            for row in reader:
                if None in row:
                    raise ValueError("it has more cells than the header")
                found.append(parse(row))
    except (OSError, KeyError, IndexError, TypeError, ValueError, csv.Error) as error:
        raise StageError(f"cannot read {path}, row {len(found) + 1}: {error!r}; `dvc repro` makes it") from error
    return found


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush_names(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
