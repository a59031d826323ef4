"""Which content the files of a data folder have, without reading them again."""

import hashlib
import json
import logging
import os
from pathlib import Path

from stages.common.base.errors import StageError
from stages.common.base.files import write_bytes
from stages.common.pixels.scratch import checkout

log = logging.getLogger(__name__)

Known = dict[str, list[object]]  # a photo's name -> its file's signature and the sha256 of its bytes


class DigestCache:
    """The sha256 of each file of a data folder, remembered as long as the file system says that it is untouched.

    A copy of the checkout that DVC makes for an experiment (`--temp`, `--queue`) looks into the checkout's list, in
    which it finds its photos where `cache.type` makes them links to DVC's cache. Copied photos are new files to the
    file system, and are read. One more list has these, and the next experiment writes over it.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._new = False
        place = hashlib.sha256(str((checkout() / root).resolve()).encode()).hexdigest()[:16]
        self._root, self._file = root, folder / f"digests-{place}.json"
        self._lists = [_read(self._file)]
        if checkout() != Path.cwd():
            self._file = folder / f"digests-{place}-experiment.json"
            self._lists.append(_read(self._file))

    def digest(self, name: str) -> str | None:
        """The sha256 of a photo's bytes; None where it is not known, or the file has changed or cannot be read."""
        try:
            signature = _file_signature((self._root / name).stat())
        except OSError:
            return None  # reading it will say what is wrong
        found = (known[name][-1] for known in self._lists if known.get(name, [])[:-1] == signature)
        return next(map(str, found), None)

    def read(self, name: str) -> tuple[bytes, str]:
        """A photo's bytes and their sha256, remembered from now on."""
        with (self._root / name).open("rb") as file:
            signature, content = _file_signature(os.fstat(file.fileno())), file.read()
        digest = hashlib.sha256(content).hexdigest()
        self._lists[-1][name], self._new = [*signature, digest], True
        return content, digest

    def save(self) -> None:
        """Write down what is new; on a full disk it is found out again next time."""
        try:
            if self._new:
                write_bytes(self._file, json.dumps(self._lists[-1]).encode())
        except StageError as error:
            log.warning("%s", error)


def _read(file: Path) -> Known:
    try:
        known: Known = json.loads(file.read_bytes())
        return known
    except (OSError, ValueError):
        return {}  # not there yet, or damaged: it only saves time


def _file_signature(stat: os.stat_result) -> list[int]:
    """What changes when a file is written to or replaced. ctime also changes with the number of hard links, which DVC
    makes read-only, so for these it does not count."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns if stat.st_nlink == 1 else 0, stat.st_ino]
