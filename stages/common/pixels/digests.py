"""Which content the files of a data folder have, without reading them again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from stages.common.base.errors import StageError
from stages.common.base.files import write_bytes

log = logging.getLogger(__name__)


class Seen:
    """Which content the files of a data folder have, remembered as long as the file system says they are untouched."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._root = root
        self._file = folder / f"seen-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
        try:
            self._known: dict[str, list[object]] = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            self._known = {}  # not there yet, or damaged: it only saves time

    def digest(self, name: str) -> str | None:
        """The sha256 of a photo's bytes; None where it is not known, or the file has changed or cannot be read."""
        try:
            *stamp, digest = self._known.get(name, [""])
            return str(digest) if stamp and stamp == _stamp((self._root / name).stat()) else None
        except OSError:
            return None  # reading it will say what is wrong

    def read(self, name: str) -> tuple[bytes, str]:
        """A photo's bytes and their sha256, remembered from now on."""
        with (self._root / name).open("rb") as file:
            stamp, content = _stamp(os.fstat(file.fileno())), file.read()
        digest = hashlib.sha256(content).hexdigest()
        self._known[name] = [*stamp, digest]
        return content, digest

    def save(self) -> None:
        """Write down what is known; on a full disk it is found out again next time."""
        try:
            write_bytes(self._file, json.dumps(self._known).encode())
        except StageError as error:
            log.warning("%s", error)


def _stamp(stat: os.stat_result) -> list[int]:
    """What changes when a file is written to, replaced or renamed."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
