"""The folder of a job, on a disk or in an object store: files that appear whole, and are written once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serving.batch.photos import STORES, ReadError, extra, reading, split
from serving.verdict.errors import UserError
from serving.whole import unfinished, whole

STALE = 3600.0  # seconds; no file takes so long to be written


class Folder:
    """`url`: a local path, file:// or the prefix of an object store."""

    def __init__(self, url: str) -> None:
        self.remote = url.startswith(STORES)
        self.url = (
            url.rstrip("/") if self.remote else os.path.abspath(unquote(urlsplit(url).path) if "://" in url else url)
        )

    def at(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where it is missing. Raises UserError."""
        with _failing(f"cannot read {self.at(name)}"):
            try:
                if not self.remote:
                    return Path(self.at(name)).read_bytes()
                place, key = split(self.at(name))
                return bytes(extra("obstore").get(place, key).bytes())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> bool:
        """Write a file, whole; False where it exists already, which leaves it as it is. Raises UserError."""
        with _failing(f"cannot write {self.at(name)}"):
            if self.remote:
                place, key = split(self.at(name))
                obstore, errors = extra("obstore"), extra("obstore.exceptions")
                try:
                    obstore.put(place, key, content, mode="create")
                except errors.AlreadyExistsError:
                    return False
                return True
            target = Path(self.at(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with whole(target, new=True) as file:
                    file.write(content)
            except FileExistsError:
                return False
            return True

    def files(self, below: str = "") -> dict[str, float]:
        """The files directly in the folder or in one below it, by name: when each was written, in seconds since 1970.

        Raises UserError."""
        with _failing(f"cannot list {self.at(below)}"):
            if not self.remote:
                try:
                    entries = list(os.scandir(self.at(below)))
                except FileNotFoundError:
                    return {}
                return {entry.name: entry.stat().st_mtime for entry in entries if not unfinished(entry.name)}
            place, key = split(self.at(below))
            listed = extra("obstore").list_with_delimiter(place, key.rstrip("/") or None)["objects"]
            return {meta["path"].rpartition("/")[2]: meta["last_modified"].timestamp() for meta in listed}

    def clean(self) -> None:
        """Remove what writers that were killed left: nothing in an object store."""
        if not self.remote:
            for path in Path(self.url).rglob(".*.tmp"):
                with suppress(FileNotFoundError):
                    # A younger one may be another run's.
                    if unfinished(path.name) and time.time() - path.stat().st_mtime > STALE:
                        path.unlink()


@contextmanager
def parsing(location: str) -> Iterator[None]:
    """Turn what JSON and Parquet raise of a damaged file into UserError."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{location} is damaged, or not one of ours: {error}") from None


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        with reading():
            yield
    except ReadError as error:
        raise UserError(f"{what}: {error.kind}: {error}") from None
