"""One pass over all photos: bytes, header and pixels of each, decoded once and reduced to what the checks need.

About 2.5 KB are kept of a photo: memory grows by 2.5 GB for a million of them.
"""

import hashlib
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tqdm import tqdm

from serving.inference.model.quality import SIDE, Quality, quality
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.decode import open_photo, square, upright_rgb
from serving.inference.photo.errors import PhotoError
from stages.common.base.errors import StageError
from stages.common.base.photos import SPLITS, Photo

MAX_BYTES = 1 << 30  # of a file; no photo is larger
EXTREME_ASPECT = 3.0  # longer side against the shorter
WORKING_SIZE = SIDE  # pixels that the shorter side is decoded to at least; reducing JPEGs in the DCT is what is quick
GREY_SIDE = 192  # pixels of the longer side at most of the picture that the thumbnail is made from
THUMBNAIL_SIDE = 32  # pixels, side of the grey thumbnail that is hashed and compared
COLOURS = 40  # values of each opponent colour that are kept
# Mean of the luminance table in the JPEG standard (annex K), from which encoders scale theirs by quality.
_STANDARD_TABLE_MEAN = 57.625

Colour = tuple[float, float, float]

SUFFIXES = {
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
class PhotoStats:
    """The measurements of a readable photo. Sizes in pixels, upright; colours RGB in 0..255; the rest in 0..1."""

    width: int
    height: int
    format: str  # Pillow's name, such as JPEG
    jpeg_quality: int | None  # 1..100, estimated from its quantisation table
    exif: bool
    pixels_sha256: str  # of the pixels as decoded here: the same for a file whose metadata alone changed
    thumbnail: bytes = field(repr=False)  # grey, uint8 [S, S], S being THUMBNAIL_SIDE; squashed to a square
    colours: bytes = field(repr=False)  # int16 [2, COLOURS]: red - green and blue - green, sorted, from 1,600 places
    mean_colour: Colour
    border_colour: Colour  # of the outermost 5 %
    quality: Quality  # of the pixels that a network of SIDE pixels takes

    @property
    def side(self) -> int:
        """The shorter one."""
        return min(self.width, self.height)


@dataclass(frozen=True)
class ScannedPhoto:
    """One file of the data folder."""

    photo: Photo
    split: str  # "" in a folder without splits
    bytes: int
    sha256: str  # of the bytes; "" where the file could not be read from disk
    problem: str | None  # why it cannot be read as a photo; None: it can
    oddities: tuple[str, ...]  # what is strange about it, each `kind` or `kind: detail`; it can still be used
    stats: PhotoStats | None  # None where there is a problem

    @property
    def name(self) -> str:
        """Path below the data folder."""
        return self.photo.name


_warned: defaultdict[int, set[str]] = defaultdict(set)  # thread -> what its decoder warned of


@contextmanager
def _warnings_by_thread() -> Iterator[None]:
    """Note every warning for the thread that raises it: Python's own recorder mixes up threads."""

    def note(message: Warning | str, *_: object, **__: object) -> None:
        _warned[threading.get_ident()].add(f"decode warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield


def scan(root: Path, photos: Sequence[Photo]) -> list[ScannedPhoto]:
    """Scan photos below `root`, in their order, with a progress bar. A broken photo is a result, not an error."""
    # Hashing and decoding release the GIL, so threads use every core.
    with _warnings_by_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        looked = pool.map(scan_photo, repeat(root), photos)
        return list(tqdm(looked, total=len(photos), desc="photos", disable=None))


def scan_photo(root: Path, photo: Photo) -> ScannedPhoto:
    if "\r" in photo.name:  # such as the Icon\r of macOS; csv does not quote it, and so reads two rows
        raise StageError(f"{root}: the name {photo.name!r} holds a carriage return; rename or remove the file")
    first = PurePosixPath(photo.name).parts[0]
    broken = ScannedPhoto(photo, first if first in SPLITS else "", 0, "", None, (), None)
    try:
        size = (root / photo.name).stat().st_size
        if size > MAX_BYTES:
            return replace(broken, bytes=size, problem=f"{size:,} bytes are too many for a photo")
        content = (root / photo.name).read_bytes()
        broken = replace(broken, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        warned = _warned[threading.get_ident()]
        warned.clear()
        stats = photo_stats(content)
    except OSError as error:
        return replace(broken, problem=error.strerror or str(error))
    except PhotoError as error:
        return replace(broken, problem=str(error))
    except MemoryError:
        raise StageError(
            f"{root / photo.name}: too little memory to decode it; free some, or make the photo smaller"
        ) from None
    return replace(broken, oddities=(*_oddities(photo.name, stats), *sorted(warned)), stats=stats)


def _oddities(name: str, stats: PhotoStats) -> list[str]:
    """What is strange about a photo that can be read."""
    odd = []
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES[stats.format]:
        odd.append(f"wrong type for its name: {stats.format} in a {suffix or 'nameless'} file")
    if max(stats.width, stats.height) > EXTREME_ASPECT * min(stats.width, stats.height):
        odd.append(f"extreme aspect: {stats.width} x {stats.height}")
    return odd


def photo_stats(content: bytes) -> PhotoStats:
    """What is kept of a photo, given its file. Raises PhotoError."""
    image = open_photo(content)
    width, height = image.size  # before draft makes `image` small
    rgb = upright_rgb(image, WORKING_SIZE)
    if image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):  # it lies on its side
        width, height = height, width
    grey = rgb.convert("L")
    grey.thumbnail((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX)
    colours = np.asarray(rgb.resize((40, 40), Image.Resampling.BOX, reducing_gap=2.0), np.float64)
    inside = np.zeros((40, 40), bool)
    inside[2:-2, 2:-2] = True
    return PhotoStats(
        width=width, height=height, format=str(image.format), jpeg_quality=_jpeg_quality(image),
        exif=bool(image.info.get("exif")),
        pixels_sha256=hashlib.sha256(str(rgb.size).encode() + rgb.tobytes()).hexdigest(),
        thumbnail=grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX).tobytes(),
        colours=_opponents(colours).tobytes(),
        mean_colour=_colour(colours.reshape(-1, 3)), border_colour=_colour(colours[~inside]),
        quality=quality(square(rgb, SIDE)),
    )  # fmt: skip


def _opponents(pixels: np.ndarray) -> NDArray[np.int16]:
    """Red - green and blue - green of pixels `[H, W, 3]`, sorted and averaged to int16 `[2, COLOURS]`."""
    values = np.stack([pixels[..., 0] - pixels[..., 1], pixels[..., 2] - pixels[..., 1]]).reshape(2, -1)
    found: NDArray[np.int16] = np.sort(values).reshape(2, COLOURS, -1).mean(2).round().astype(np.int16)
    return found


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
