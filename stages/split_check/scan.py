"""One look at every photo: its bytes, its header and its pixels, reduced while decoding, once, on every core.

About 2.5 KB are kept of a photo: memory grows by 2.5 GB for a million of them.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from serving.photo.cores import usable_cores
from serving.photo.errors import PhotoError
from stages.common.base.errors import StageError
from stages.common.base.photos import SPLITS, Photo
from stages.split_check.look import Look, look_of

MAX_BYTES = 1 << 30  # of a file; no photo is larger
TINY, EXTREME_ASPECT = 64, 3.0  # below so many pixels on the shorter side; longer side against the shorter

_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png"},
    "WEBP": {".webp"},
    "AVIF": {".avif"},
    "HEIF": {".heic", ".heif", ".hif"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
}


@dataclass(frozen=True)
class Scanned:
    """One file of the data folder."""

    photo: Photo
    split: str  # "" in a folder without splits
    bytes: int
    sha256: str  # of the bytes; "" where the file could not be read from disk
    problem: str | None  # why it cannot be read as a photo; None: it can
    oddities: tuple[str, ...]  # what is strange about it, each `kind` or `kind: detail`; it can still be used
    look: Look | None  # None where there is a problem

    @property
    def name(self) -> str:
        """Path below the data folder."""
        return self.photo.name


def scan(root: Path, photos: Sequence[Photo]) -> list[Scanned]:
    """Look at photos below `root`, in their order, with a progress bar. Never raises for a photo that is broken."""
    # Hashing and decoding release the GIL, so threads use every core.
    with _warnings_by_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        looked = pool.map(look_at, repeat(root), photos)
        return list(tqdm(looked, total=len(photos), desc="photos", disable=None))


def look_at(root: Path, photo: Photo) -> Scanned:
    """Read, hash and decode one photo."""
    first = PurePosixPath(photo.name).parts[0]
    split = first if first in SPLITS else ""
    try:
        size = (root / photo.name).stat().st_size
        if size > MAX_BYTES:
            return Scanned(photo, split, size, "", f"{size:,} bytes are too many for a photo", (), None)
        content = (root / photo.name).read_bytes()
    except OSError as error:
        return Scanned(photo, split, 0, "", str(error.strerror), (), None)
    except MemoryError:
        raise _no_memory(root, photo) from None
    digest = hashlib.sha256(content).hexdigest()
    said = _said()
    said.clear()
    try:
        look = look_of(content)
    except PhotoError as error:
        return Scanned(photo, split, len(content), digest, str(error), (), None)
    except MemoryError:
        raise _no_memory(root, photo) from None
    return Scanned(photo, split, len(content), digest, None, (*_oddities(photo.name, look), *_warned(said)), look)


def _no_memory(root: Path, photo: Photo) -> StageError:
    return StageError(f"{root / photo.name}: too little memory to decode it; free some, or make the photo smaller")


def _oddities(name: str, look: Look) -> list[str]:
    """What is strange about a photo that can be read."""
    odd = []
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _SUFFIXES[look.format]:
        odd.append(f"wrong type for its name: {look.format} in a {suffix or 'nameless'} file")
    if min(look.width, look.height) < TINY:
        odd.append(f"tiny: {look.width} x {look.height}")
    if max(look.width, look.height) > EXTREME_ASPECT * min(look.width, look.height):
        odd.append(f"extreme aspect: {look.width} x {look.height}")
    return odd


def _warned(texts: list[str]) -> list[str]:
    """Decode warnings as oddities."""
    return [f"decode warning: {text}" for text in sorted(set(texts))]


_of_thread = threading.local()


def _said() -> list[str]:
    """The texts of the warnings raised in this thread."""
    if not hasattr(_of_thread, "said"):
        _of_thread.said = []
    said: list[str] = _of_thread.said
    return said


@contextmanager
def _warnings_by_thread() -> Iterator[None]:
    """In here every warning is noted for the thread that raises it: Python's own recorder mixes up threads."""

    def note(message: Warning | str, *_: object, **__: object) -> None:
        _said().append(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield
