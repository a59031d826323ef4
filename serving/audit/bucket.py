"""Kept photos in an object store."""

from __future__ import annotations

from collections.abc import Iterator

from serving.audit.kept import first_day, parse
from serving.stores import extra, reading, split


class KeptBucket:
    """Kept photos below a prefix such as s3://bucket/audit. Raises UserError where obstore is not installed; methods
    raise ReadError."""

    def __init__(self, url: str) -> None:
        self._obstore = extra("obstore")
        self._store, self._prefix = split(url.rstrip("/") + "/")

    def put(self, name: str, photo: bytes) -> None:
        """Write one photo: as obstore and the store do, whole or not at all."""
        with reading():
            self._obstore.put(self._store, self._prefix + name, photo)

    def names(self) -> Iterator[str]:
        """The names of the kept photos, oldest first."""
        with reading():
            listed = self._obstore.list(self._store, self._prefix or None)
            found = [meta["path"].removeprefix(self._prefix) for chunk in listed for meta in chunk]
        yield from sorted(name for name in found if parse(name))

    def get(self, name: str) -> bytes:
        """The bytes of a photo."""
        with reading():
            return bytes(self._obstore.get(self._store, self._prefix + name).bytes())

    def expire(self, days: int) -> int:
        """Delete the photos of days longer ago than so many, and nothing else. Returns how many."""
        first = first_day(days)
        old = [self._prefix + name for name in self.names() if name < first]
        with reading():
            self._obstore.delete(self._store, old)
        return len(old)
