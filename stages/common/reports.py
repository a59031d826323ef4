"""Writing what a stage produces: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.common.errors import StageError


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write to a temporary name, flush to disk, rename: a full disk or a crash leaves the old file or none.

    Raises StageError naming the file when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StageError(f"cannot write {path}: {error.strerror}; nothing was left half-written") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_json(path: Path, content: Any, *, digits: int | None = 6) -> None:
    """Write JSON; floats are rounded for people and for diffs, or kept whole where `digits` is None."""
    content = content if digits is None else _rounded(content, digits)
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV; floats keep every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_json(path: Path) -> Any:
    """Read a JSON file another stage wrote. Raises StageError naming it."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StageError(f"cannot read {path}: {error}; `dvc repro` makes it") from error


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rounded(content: Any, digits: int) -> Any:
    if isinstance(content, float):
        return round(content, digits)
    if isinstance(content, dict):
        return {key: _rounded(value, digits) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(value, digits) for value in content]
    return content
