"""Decoded photos on disk: a file of pixels per image size, shared by every stage and run that has the lock.

    <scratch>/pixels/lock             held by whoever looks up or adds
    <scratch>/pixels/<rule>-<decoder>-<size>/
                                      pixels.bin: uint8 rows [S, S, 3], append-only; rows.txt: the sha256 of each row

A row belongs to the content of a photo (the sha256 of its bytes), whatever its name. rows.txt is the commit log: a row
is appended after its pixels are fsynced. A crash leaves unindexed bytes, which the next run overwrites. A cache that is
evicted while another run reads it lives on until that run ends. No row is evicted alone, not even of a photo that is
gone: other runs read rows where they lie, and may ask for them again. Deleting the folder starts over.
"""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import PIL
import pillow_heif
from numpy.typing import NDArray

from serving.inference.photo import decode

# With RESIZE_RULE, which changes when the code makes other pixels, whatever may change one: the libraries that decode.
DECODER = hashlib.sha256(f"{PIL.__version__} {pillow_heif.__version__}".encode()).hexdigest()[:12]
HEX_DIGITS = 64  # hex digits of a sha256
LINE = HEX_DIGITS + 1


class PixelCache:
    """The pixels at one image size. Only for whoever holds the lock."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder / f"{decode.RESIZE_RULE}-{DECODER}-{size}", size
        self.folder.mkdir(exist_ok=True)
        self._pixels, self._names = self.folder / "pixels.bin", self.folder / "rows.txt"
        self._pixels.touch()
        self._names.touch()
        os.utime(self.folder)  # when it was last used, for `evict`
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

    def evict(self, missing: int, limit: int) -> int:
        """Delete caches of other sizes as far as `missing` new rows need it, those of another decoder first, then the
        least recently used. Gives how many rows may be added while all caches stay below `limit` bytes."""
        others = [folder for folder in self.folder.parent.iterdir() if folder.is_dir() and folder != self.folder]
        sizes = {folder: _bytes(folder) for folder in sorted(others, key=_lru_key)}

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


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _lru_key(folder: Path) -> tuple[bool, float]:
    """Whether it is of this decoder, and when it was last used."""
    return f"-{DECODER}-" in folder.name, folder.stat().st_mtime
