"""The folder of a job, on a disk or in an object store: files that appear whole, and are written once."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from serving.batch.photos import STORES, ReadError, extra, reading, split
from serving.verdict.errors import UserError

STALE = 3600.0  # seconds; no file takes so long to be written
_TEMPORARY = ".tmp"


class FolderError(UserError):
    """A folder of a job that cannot be listed, read or written."""


class Found(NamedTuple):
    """A file's name, and when it was written, in seconds since 1970."""

    name: str
    modified: float


class Folder:
    """`url`: a local path, file:// or the prefix of an object store."""

    def __init__(self, url: str) -> None:
        self.remote = url.startswith(STORES)
        self.url = (
            url.rstrip("/") if self.remote else os.path.abspath(unquote(urlsplit(url).path) if "://" in url else url)
        )

    def at(self, name: str) -> str:
        """The location of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where it is missing. Raises FolderError."""
        with _failing(f"cannot read {self.at(name)}"):
            try:
                if not self.remote:
                    return Path(self.at(name)).read_bytes()
                place, key = split(self.at(name))
                return bytes(extra("obstore").get(place, key).bytes())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> bool:
        """Write a file, whole; False where it exists already, which leaves it as it is. Raises FolderError."""
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
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_TEMPORARY}")
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, target)  # unlike rename, it replaces nothing
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            return True

    def files(self, below: str = "") -> list[Found]:
        """The files directly in the folder, or in a folder below it. Raises FolderError."""
        with _failing(f"cannot list {self.at(below)}"):
            if not self.remote:
                try:
                    entries = list(os.scandir(self.at(below)))
                except FileNotFoundError:
                    return []
                return [Found(entry.name, entry.stat().st_mtime) for entry in entries if not _temporary(entry.name)]
            place, key = split(self.at(below))
            listed = extra("obstore").list_with_delimiter(place, key.rstrip("/") or None)["objects"]
            return [Found(meta["path"].rpartition("/")[2], _seconds(meta["last_modified"])) for meta in listed]

    def clean(self) -> None:
        """Remove what writers that were killed left: nothing in an object store."""
        if not self.remote:
            for path in Path(self.url).rglob(f".*{_TEMPORARY}"):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > STALE:  # a younger one may be another run's
                        path.unlink()


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        with reading():
            yield
    except ReadError as error:
        raise FolderError(f"{what}: {error.kind}: {error}") from None


def _temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(_TEMPORARY)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
