"""Decoded photos on disk: a packed file of pixels per image size, shared by every stage and run that has the lock.

    <scratch>/pixels/lock             held by whoever looks up or adds
    <scratch>/pixels/<rule>-<decoder>-<size>/
                                      pixels.bin: uint8 rows [S, S, 3], only ever added to; rows.txt: whose they are

A row belongs to the content of a photo (the sha256 of its bytes), whatever its name. Rows count once rows.txt names
them, and it names them when their pixels are on the disk: a run that dies leaves rows that nobody reads and the next
one overwrites. A pack that is deleted while another run reads it lives on until that run ends. No row is dropped
alone, not even of a photo that is gone: who else will ask for it is not known, and runs read rows where they lie.
Deleting the folder starts over.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import PIL
import pillow_heif
from numpy.typing import NDArray

from serving.photo import decode

# With RESIZE_RULE, which changes when the code makes other pixels, whatever may change one: the libraries that decode.
DECODER = hashlib.sha256(f"{PIL.__version__} {pillow_heif.__version__}".encode()).hexdigest()[:12]
DIGEST = 64  # hex digits of a sha256
LINE = DIGEST + 1


class Pack:
    """The packed file for one image size. Only for whoever holds the lock."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder / f"{decode.RESIZE_RULE}-{DECODER}-{size}", size
        self.folder.mkdir(exist_ok=True)
        self._pixels, self._names = self.folder / "pixels.bin", self.folder / "rows.txt"
        self._pixels.touch()
        self._names.touch()
        os.utime(self.folder)  # when it was last used, for `make_room`
        whole = min(self._names.stat().st_size // LINE, self._pixels.stat().st_size // self.row_bytes)
        names = self._names.read_text()[: whole * LINE].split("\n")[:whole]
        self.rows = {name: row for row, name in enumerate(names)}

    @property
    def row_bytes(self) -> int:
        """What one photo takes."""
        return 3 * self.size**2

    def append(self, photos: dict[str, NDArray[np.uint8]]) -> None:
        """Add photos by the sha256 of their bytes, uint8 `[S, S, 3]` each. Raises OSError on a full disk, and then
        has added none."""
        first = len(self.rows)
        _write_at(self._pixels, first * self.row_bytes, b"".join(pixels.tobytes() for pixels in photos.values()))
        _write_at(self._names, first * LINE, "".join(f"{name}\n" for name in photos).encode())
        self.rows |= {name: first + place for place, name in enumerate(photos)}

    def open(self) -> NDArray[np.uint8]:
        """All rows, `[rows, S, S, 3]`, read from the disk as they are used."""
        shape = (len(self.rows), self.size, self.size, 3)
        return np.memmap(self._pixels, np.uint8, "r", shape=shape) if self.rows else np.empty(shape, np.uint8)

    def make_room(self, missing: int, limit: int) -> int:
        """How many rows may be added below `limit` bytes of all packs together, after deleting other packs as far as
        `missing` new ones need it: those of another decoder first, which are of no use any more, then the longest
        unused."""
        others = [pack for pack in self.folder.parent.iterdir() if pack.is_dir() and pack != self.folder]
        sizes = {pack: _bytes(pack) for pack in sorted(others, key=_worth)}

        def room() -> int:
            return max(0, (limit - sum(sizes.values())) // self.row_bytes - len(self.rows))

        while room() < missing and sizes:
            shutil.rmtree(least := next(iter(sizes)))
            del sizes[least]
        return room()


def _write_at(path: Path, place: int, content: bytes) -> None:
    """Cut a file at a place and go on from there, down to the disk."""
    with path.open("r+b") as file:
        file.truncate(place)
        file.seek(place)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _bytes(pack: Path) -> int:
    return sum(file.stat().st_size for file in pack.iterdir())


def _worth(pack: Path) -> tuple[bool, float]:
    """Whether it is of this decoder, and when it was last used."""
    return f"-{DECODER}-" in pack.name, pack.stat().st_mtime
