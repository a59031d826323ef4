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
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter, ImageStat
from tqdm import tqdm

from serving.cores import usable_cores
from serving.image import PhotoError, open_photo, upright_rgb
from stages.common.data import SPLITS, Photo
from stages.common.errors import StageError

WORKING_SIZE = 128  # pixels that the shorter side is decoded to at least; reducing JPEGs in the DCT is what is quick
GLANCE = 192  # pixels of the longer side at most where brightness, contrast and sharpness are measured: a glance
THUMBNAIL = 32  # side of the grey thumbnail that copies are recognised by
MAX_BYTES = 1 << 30  # of a file; no photo is larger
COLOURS = 40  # values of each opponent colour that are kept
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
# Mean of the luminance table in the JPEG standard (annex K), from which encoders scale theirs by quality.
_STANDARD_TABLE_MEAN = 57.625
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=1, offset=128)

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """What a readable photo looks like. Sizes in pixels, upright; colours RGB in 0..255; the rest in 0..1."""

    width: int
    height: int
    format: str  # Pillow's name, such as JPEG
    quality: int | None  # of a JPEG, 1..100, estimated from its quantisation table
    exif: bool
    pixels_sha256: str  # of the pixels as decoded here: the same for a file whose metadata alone changed
    thumbnail: bytes = field(repr=False)  # grey, uint8 [THUMBNAIL, THUMBNAIL], the whole photo squashed to a square
    colours: bytes = field(repr=False)  # int16 [2, COLOURS]: red - green and blue - green, sorted, from 1,600 places
    mean_colour: Colour
    border_colour: Colour  # of the outermost 5 %
    brightness: float  # mean of grey
    contrast: float  # standard deviation of grey
    sharpness: float  # standard deviation of the Laplacian of grey, against the contrast


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
        look = _look(content)
    except PhotoError as error:
        if isinstance(error.__cause__, MemoryError):  # the photo is not damaged, and must not be left out as if it were
            raise _no_memory(root, photo) from None
        return Scanned(photo, split, len(content), digest, str(error), (), None)
    except MemoryError:
        raise _no_memory(root, photo) from None
    return Scanned(photo, split, len(content), digest, None, (*_oddities(photo.name, look), *_warned(said)), look)


def _no_memory(root: Path, photo: Photo) -> StageError:
    return StageError(f"{root / photo.name}: too little memory to decode it; free some, or make the photo smaller")


def _look(content: bytes) -> Look:
    """The look of a photo. Raises PhotoError."""
    image = open_photo(content)
    width, height = image.size  # before draft makes `image` small
    rgb = upright_rgb(image, WORKING_SIZE)
    on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return _describe(image, (height, width) if on_its_side else (width, height), rgb)


def _describe(image: Image.Image, size: tuple[int, int], rgb: Image.Image) -> Look:
    """The look of a photo: `image` as opened, its upright `size`, its decoded pixels `rgb`."""
    grey = rgb.convert("L")
    grey.thumbnail((GLANCE, GLANCE), Image.Resampling.BOX)
    (mean,), (deviation,) = ImageStat.Stat(grey).mean, ImageStat.Stat(grey).stddev
    inner = 1, 1, max(2, grey.width - 1), max(2, grey.height - 1)  # Pillow's filters leave the outermost pixels as is
    (edges,) = ImageStat.Stat(grey.filter(_LAPLACIAN).crop(inner)).stddev
    colours = np.asarray(rgb.resize((40, 40), Image.Resampling.BOX, reducing_gap=2.0), np.float64)
    inside = np.zeros((40, 40), bool)
    inside[2:-2, 2:-2] = True
    return Look(
        width=size[0], height=size[1], format=str(image.format), quality=_jpeg_quality(image),
        exif=bool(image.info.get("exif")),
        pixels_sha256=_pixels_sha256(rgb),
        thumbnail=grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes(),
        colours=_opponents(colours).tobytes(),
        mean_colour=_colour(colours.reshape(-1, 3)), border_colour=_colour(colours[~inside]),
        brightness=mean / 255, contrast=deviation / 255, sharpness=edges / max(deviation, 1.0),
    )  # fmt: skip


def _opponents(pixels: np.ndarray) -> NDArray[np.int16]:
    """Red - green and blue - green of pixels `[H, W, 3]`, sorted and averaged to int16 `[2, COLOURS]`."""
    values = np.stack([pixels[..., 0] - pixels[..., 1], pixels[..., 2] - pixels[..., 1]]).reshape(2, -1)
    found: NDArray[np.int16] = np.sort(values).reshape(2, COLOURS, -1).mean(2).round().astype(np.int16)
    return found


def _pixels_sha256(rgb: Image.Image) -> str:
    digest = hashlib.sha256(str(rgb.size).encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def _colour(pixels: np.ndarray) -> Colour:
    """Mean of pixels `[N, 3]`."""
    red, green, blue = pixels.mean(0).tolist()
    return red, green, blue


def _jpeg_quality(image: Image.Image) -> int | None:
    """The quality a JPEG was saved at, by how its luminance table is scaled against the standard's (libjpeg's rule)."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return None
    scale = 100 * float(np.mean(tables[min(tables)])) / _STANDARD_TABLE_MEAN
    return round(min(100.0, max(1.0, (200 - scale) / 2 if scale <= 100 else 5000 / scale)))


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
