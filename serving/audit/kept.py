"""Photos kept for people to judge: a folder a day, a file a photo, whose name holds all that is known of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from serving.whole import unfinished, whole

_NAME = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)/(?P<time>\d{8}T\d{6}\.\d{6}Z)_(?P<digest>[0-9a-f]{16})"
    r"_p(?P<p_clean>[01]\.\d{6})_s(?P<share>[\de.-]+)_(?P<model>[\w.%~-]+)"
)


@dataclass(frozen=True)
class Kept:
    """A photo called clean that was drawn: when, by which model and score, and the share that was being drawn."""

    time: str  # UTC, 20261126T011500.123456Z
    digest: str  # the start of its sha256
    p_clean: float
    share: float
    model: str

    @property
    def name(self) -> str:
        """Its path below the folder of all."""
        day = f"{self.time[:4]}-{self.time[4:6]}-{self.time[6:8]}"
        facts = f"p{self.p_clean:.6f}_s{self.share:.12g}_{quote(self.model, safe='')}"
        return f"{day}/{self.time}_{self.digest}_{facts}"


def parse(name: str) -> Kept | None:
    """What a name says; None for one that is not of a kept photo."""
    found = _NAME.fullmatch(name)
    try:
        return found and Kept(
            found["time"], found["digest"], float(found["p_clean"]), float(found["share"]), unquote(found["model"])
        )
    except ValueError:
        return None


def first_day(days: int) -> str:
    """The first of the days that are kept, as the folders spell it."""
    return (datetime.now(UTC) - timedelta(days=days)).date().isoformat()


class KeptFolder:
    """Kept photos in a folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, name: str, photo: bytes) -> None:
        """Write one photo whole or not at all. Raises OSError."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole(place) as file:
            file.write(photo)

    def names(self) -> Iterator[str]:
        """The names of the kept photos, oldest first. Raises OSError."""
        for day in sorted(os.listdir(self.path)):
            names = (f"{day}/{path.name}" for path in sorted((self.path / day).glob("*")))
            yield from (name for name in names if parse(name))

    def get(self, name: str) -> bytes:
        """The bytes of a photo. Raises OSError."""
        return (self.path / name).read_bytes()

    def expire(self, days: int) -> int:
        """Delete the photos of days longer ago than so many, and nothing else. Returns how many. Raises OSError."""
        first, deleted = first_day(days), 0
        for file in list(self.path.glob("*/*")):
            day = file.parent.name
            if day < first and parse(f"{day}/{unfinished(file.name) or file.name}"):
                file.unlink(missing_ok=True)  # another process may be at it too
                deleted += 1
                with suppress(OSError):  # it holds more
                    file.parent.rmdir()
        return deleted
