"""What one photo looks like, from a single decoding: its header, colours, thumbnail and quality."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter, ImageStat

from serving.photo.decode import open_photo, upright_rgb

WORKING_SIZE = 128  # pixels that the shorter side is decoded to at least; reducing JPEGs in the DCT is what is quick
GLANCE = 192  # pixels of the longer side at most where brightness, contrast and sharpness are measured: a glance
THUMBNAIL = 32  # side of the grey thumbnail that copies are recognised by
COLOURS = 40  # values of each opponent colour that are kept
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


def look_of(content: bytes) -> Look:
    """The look of a photo, given its file. Raises PhotoError."""
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
