"""Bytes -> pixels: the one decoder and resizer, for training, evaluation, batch scoring and service alike.

A photo is identified by its content, never by its name. What counts is its primary image, whole: the first frame of an
animation, the first page of a TIFF, the first picture of an MPO; never an embedded thumbnail or preview. It is decoded
at about the size needed (JPEGs are scaled inside the DCT), turned upright, laid on white where it is transparent, and
squashed to a square of `size` pixels: the whole car stays in view, whatever the aspect.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from serving.inference.photo import header, pool
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.errors import BrokenPhoto, PhotoError, UnsupportedPhoto
from serving.inference.photo.header import MAX_PIXELS, Header

pillow_heif.register_heif_opener(thumbnails=False)
# Pillow's own bomb check knows one limit per process and warns below it; `decode` applies its caller's limit instead.
Image.MAX_IMAGE_PIXELS = None
# Damaged metadata makes Pillow warn; Python keeps every such text for good, and strangers choose the texts.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

RESIZE_RULE = "squash-bilinear-2"  # recorded in every model: a model is only as good as the pixels it was trained on

_SAMPLE_BITS = (8, 10, 12, 14, 16)  # that cameras and scanners give
_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE = 281, 341  # TIFF tags

_END_MARKER = b"\xff\xd9"
_BAND = 256  # rows that are converted at a time
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes,
    size: int,
    *,
    max_pixels: int = MAX_PIXELS,
    memory: int = pool.MEMORY,
    processes: int | None = None,
    deadline: float = math.inf,
    found: Header | None = None,
) -> NDArray[np.uint8]:
    """Decode a photo to upright RGB, uint8 `[size, size, 3]`.

    A JPEG of usual size is decoded here; all else by one of a few `processes` (by default one a core) with `memory`
    bytes for all photos they decode at a time, and no later than a `deadline` by the monotonic clock; `found` is its
    header where that was read before. Raises NotAPhoto, UnsupportedPhoto, PhotoTooLarge or PhotoTooCostly (before any
    pixel is decoded), BrokenPhoto or DecodersBusy.
    """
    found = found or header.read(data, max_pixels=max_pixels)
    if found.light(size):
        return decode_here(data, size, found)
    return pool.shared(processes or usable_cores(), memory).decode(data, size, max_pixels, found, deadline)


def decode_here(data: bytes, size: int, found: Header) -> NDArray[np.uint8]:
    """`decode` in this process, given the photo's header."""
    image = _open(data, found)
    with _decoding(image):
        turn = _load(image, size)
        small = _squash(image, (size, size))
    # A square can be turned after it was made small, where turning costs nothing.
    return np.array(small if turn is None else small.transpose(turn))


def open_photo(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A photo as its header describes it (size, format, metadata); no pixel is decoded yet. Raises as `decode` does."""
    return _open(data, header.read(data, max_pixels=max_pixels))


def upright_rgb(image: Image.Image, size: int) -> Image.Image:
    """Decode an `open_photo`: upright RGB in its own aspect, JPEGs at the smallest DCT scale that covers size x size.

    For looking at photos, not for models: those see what `decode` gives. Raises BrokenPhoto or UnsupportedPhoto.
    """
    with _decoding(image):
        turn = _load(image, size)
        rgb = _to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """A picture of `upright_rgb` as `decode` would give it, but for rounding where it was turned or transparent."""
    return np.array(_squash(image, (size, size)))


@contextmanager
def _decoding(image: Image.Image) -> Iterator[None]:
    """Turn whatever a decoder raises into a PhotoError; MemoryError says nothing of the photo and stays what it is."""
    try:
        yield
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # the decoders raise anything from SyntaxError to struct.error on damaged files
        raise BrokenPhoto(f"the {image.format} photo is damaged or cut short: {error}") from error


def _load(image: Image.Image, size: int) -> Image.Transpose | None:
    """Decode the pixels, of a JPEG at the smallest DCT scale that still covers size x size; the turn that is left.

    Asked only afterwards: Pillow turns a TIFF by itself while it loads it.
    """
    if isinstance(image, JpegImageFile):  # drafts of other formats are embedded thumbnails
        image.draft(image.mode, (size, size))
    image.load()
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "RGB":
        _refuse_lost_bits(image)
    return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _open(data: bytes, found: Header) -> Image.Image:
    """Have Pillow read the header; no pixel is decoded yet."""
    try:
        image = Image.open(io.BytesIO(data if found.layout.complete else _mended(data)), formats=found.formats)
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # UnidentifiedImageError, and whatever a damaged header makes a plugin raise
        raise BrokenPhoto("the photo's header is damaged or cut short") from error
    if isinstance(image, JpegImageFile):
        # Pillow feeds its decoders 64 KiB at a time and takes Python's lock in between, which costs a busy service 5 %.
        image.decodermaxblock = len(data)
    return image


def _mended(data: bytes) -> bytes:
    """A JPEG in one scan that lacks its end marker, with one. Raises BrokenPhoto where pixels are missing too.

    If they are, what comes instead of them changes the picture; behind the last pixel it does not.
    """
    kinds = []
    for filler in (b"", bytes(range(1, 251)) * 4):
        image = Image.open(io.BytesIO(data + filler + _END_MARKER), formats=("JPEG",))
        with _decoding(image):
            image.draft(image.mode, (1, 1))
            kinds.append(image.tobytes())
    if kinds[0] != kinds[1]:
        raise BrokenPhoto("the JPEG photo is damaged or cut short: its last pixels are missing")
    return data + _END_MARKER


def _squash(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A loaded image as RGB of another size. White goes under it at the end: then it takes half as much memory."""
    if not image.has_transparency_data:
        return _to_8_bit(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGB")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    # Pillow weighs the colours with their alpha meanwhile.
    return _on_white(rgba.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit RGB; transparency becomes white."""
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return _to_8_bit(image).convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Any Pillow mode without transparency to L or RGB."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _high_byte(image)
    if image.mode in ("F", "LAB"):
        raise UnsupportedPhoto(f"{image.format} with {image.mode} pixels is not read; save it as 8-bit RGB")
    return image.convert("RGB")


def _refuse_lost_bits(image: TiffImagePlugin.TiffImageFile) -> None:
    """Of 16-bit colours Pillow keeps the high byte: of colours with 12 bits in 16, next to nothing is left."""
    if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (16, 16, 16) and 0 < np.max(image.getextrema()) < 16:
        raise UnsupportedPhoto("the TIFF's 16-bit colours use the lowest 12 bits only; save it with 8 bits a colour")


def _on_white(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """The eight highest bits in use of grey samples of more than eight."""
    wide = np.asarray(image)  # uint16 in the file's byte order, or int32
    bits = _bits_in_use(image, wide)
    grey = np.empty(wide.shape, np.uint8)
    for top in range(0, len(wide), _BAND):  # a large photo has no room for copies of all of it
        grey[top : top + _BAND] = wide[top : top + _BAND].clip(0, (1 << bits) - 1) >> (bits - 8)
    return Image.fromarray(grey)


def _bits_in_use(image: Image.Image, wide: NDArray[Any]) -> int:
    """How many bits the samples have: PNG scales all of them to 16; in a TIFF its tags or its values tell.

    Cameras and scanners store 10 to 14 bits in 16 and seldom say so; the high byte of those is next to black.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16
    said = (image.tag_v2.get(tag) for tag in (_SMAX_SAMPLE_VALUE, _MAX_SAMPLE_VALUE))
    values = (value[0] if isinstance(value, tuple) else value for value in said if value)
    top = next((value for value in values if isinstance(value, int) and value > 0), int(wide.max()))
    return next((bits for bits in _SAMPLE_BITS if top < 1 << bits), 16)
