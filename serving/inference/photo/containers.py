"""The structure of image containers, as far as it tells what decoding costs. Every walk is bounded in steps."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serving.inference.photo.errors import BrokenPhoto, PhotoTooCostly, UnsupportedPhoto

PNG_CHUNKS = 20_000  # a file of 25 MB in chunks of 8 KB has 3,000
GIF_BLOCKS = 20_000  # before the first frame
HEIF_BOXES = 5_000  # of HEIF or AVIF: 48 megapixels in tiles of 512 have 200
HEIF_BLOCK = 64  # pixels a side of the largest coding block of HEVC
TIFF_ENTRIES = 1000
TIFF_NUMBERS = 100_000  # in all entries together: Pillow makes a Python object of each
TIFF_PIECES = 20_000  # strips or tiles: Pillow decodes each by itself

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 277, 278, 284
_STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT = 273, 324, 322, 323
_SIZES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # of numeric TIFF types
_FORMS = {3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Layout:
    """How a photo's pixels are stored. The last five fields concern TIFF or JPEG alone."""

    width: int
    height: int
    decoded: int | None = None  # pixels that decoding makes, where tiles or frames hold more than width x height
    pieces: int = 1  # strips or tiles of a TIFF
    piece_bytes: int = 0  # of a TIFF's largest strip or tile, which is decoded in one
    held: float = 0.0  # bytes for each pixel that a JPEG in several scans keeps until the last one
    scans: int = 1
    complete: bool = True  # whether a JPEG in one scan has its end marker

    @property
    def pixels(self) -> int:
        """How many pixels decoding makes."""
        return self.width * self.height if self.decoded is None else self.decoded

    def scaled_pixels(self, size: int) -> int:
        """Pixels of a JPEG at the smallest DCT scale that covers size x size."""
        room = min(self.width // size, self.height // size)
        scale = next((scale for scale in (8, 4, 2) if room >= scale), 1)
        return self.pixels // scale**2


def unpack(form: str, data: bytes, at: int) -> tuple[Any, ...]:
    """Numbers at a place in a file. Raises BrokenPhoto where it ends before them."""
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as error:
        raise BrokenPhoto("the photo's header is damaged or cut short") from error


def read_png(data: bytes) -> Layout:
    """The largest size that any IHDR chunk declares: Pillow goes by the last."""
    largest, at = (0, 0), 8
    for _ in range(PNG_CHUNKS):
        if at + 8 > len(data):
            break
        length, kind = unpack(">I4s", data, at)
        if kind == b"IHDR":
            largest = max(largest, unpack(">II", data, at + 8), key=_area)
        elif kind == b"IEND":
            break
        at += 12 + length
    else:
        raise PhotoTooCostly(f"the PNG has more than {PNG_CHUNKS:,} chunks; save it anew")
    return Layout(*largest)


def read_gif(data: bytes) -> Layout:
    """The screen, or the first frame where it reaches beyond."""
    width, height, flags = unpack("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # behind the palette
    in_extension = False  # blocks follow until an empty one
    for _ in range(GIF_BLOCKS):
        if in_extension:
            in_extension = data[at] > 0
            at += 1 + data[at]
            continue
        kind = data[at]
        if kind == 0x2C:
            left, top, wide, high = unpack("<HHHH", data, at + 1)
            return Layout(max(width, left + wide), max(height, top + high))
        in_extension = kind == 0x21
        at += 2 if in_extension else 1  # an extension and its label; Pillow looks for a frame at every other byte
    raise PhotoTooCostly("the GIF has too many blocks before its first frame; save it anew")


def read_webp(data: bytes) -> Layout:
    """The canvas."""
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        raise BrokenPhoto("the photo's header is damaged or cut short")
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return Layout(width + 1, height + 1)
    if kind == b"VP8L":
        (bits,) = unpack("<I", data, 21)
        return Layout((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = unpack("<HH", data, 26)
    return Layout(width & 0x3FFF, height & 0x3FFF)


def read_bmp(data: bytes) -> Layout:
    """The size, for which the file must have the bytes."""
    offset, header = unpack("<II", data, 10)
    if header == 12:
        (width, height, _, bits), compression = unpack("<HHHH", data, 18), 0
    else:
        width, height, _, bits, compression = unpack("<iiHHI", data, 18)
    if compression not in (0, 3):  # 3: bit masks
        raise UnsupportedPhoto("a compressed BMP is not read; save it uncompressed, or as PNG or JPEG")
    width, height = abs(width), abs(height)
    if offset + (width * bits + 31) // 32 * 4 * height > len(data):
        raise BrokenPhoto("the BMP photo is damaged or cut short: it has fewer bytes than its size needs")
    return Layout(width, height)


def read_heif(data: bytes) -> Layout:
    """The largest image that a HEIF or AVIF declares: the primary one, or what it is made of. It is stored in whole
    blocks of up to HEIF_BLOCK pixels a side; a `clap` tells what is shown of it."""
    start, end = 0, len(data)
    for path, skip in ((b"meta", 0), (b"iprp", 4), (b"ipco", 0)):  # meta begins with its version
        found = ((begin, stop) for kind, begin, stop in _boxes(data, start + skip, end) if kind == path)
        start, end = next(found, (end, end))
    properties = list(_boxes(data, start, end))
    sizes = [unpack(">II", data, begin + 4) for kind, begin, _ in properties if kind == b"ispe"]
    if not sizes:
        raise BrokenPhoto("the HEIF or AVIF declares no size of its image")
    stored = max(sizes, key=_area)
    clips = [unpack(">IIII", data, begin) for kind, begin, _ in properties if kind == b"clap"]  # two fractions each
    shown = [(width // max(over, 1), height // max(under, 1)) for width, over, height, under in clips]
    fits = (clip for clip in shown if all(0 <= a - b < HEIF_BLOCK for a, b in zip(stored, clip, strict=True)))
    width, height = next(fits, stored)
    return Layout(width, height, decoded=_area(stored))


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two places: kind, begin and end of the payload. Raises PhotoTooCostly."""
    for _ in range(HEIF_BOXES):
        if at + 8 > end:
            return
        size, kind = unpack(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = unpack(">Q", data, start)
            start += 8
        stop = end if size == 0 else at + size
        if stop < start or stop > end:
            return  # cut short: whoever decodes it will say so
        yield kind, start, stop
        at = stop
    raise PhotoTooCostly(f"the HEIF or AVIF has more than {HEIF_BOXES:,} boxes; save it anew")


def read_tiff(data: bytes) -> Layout:
    """The size, strips and tiles of the first page."""
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    word, entry, inline = (order + "Q", order + "HHQ", 8) if big else (order + "I", order + "HHI", 4)
    (start,) = unpack(word, data, 8 if big else 4)
    (count,) = unpack(word if big else order + "H", data, start)
    if count > TIFF_ENTRIES:
        raise PhotoTooCostly(f"the TIFF's directory has more than {TIFF_ENTRIES} entries; save it anew")
    first: dict[int, int] = {}  # value of each tag
    counts: dict[int, int] = {}
    for number in range(count):
        at = start + (8 + 20 * number if big else 2 + 12 * number)
        tag, kind, values = unpack(entry, data, at)
        counts[tag] = values if kind in _SIZES else 0  # text and bytes are kept as they are
        if kind in _FORMS and values:
            place = at + struct.calcsize(entry)
            if _SIZES[kind] * values > inline:
                (place,) = unpack(word, data, place)
            (first[tag],) = unpack(order + _FORMS[kind], data, place)
    pieces = counts.get(_STRIPS, 0) + counts.get(_TILES, 0)
    if sum(counts.values()) > TIFF_NUMBERS or pieces > TIFF_PIECES:
        raise PhotoTooCostly(
            f"the TIFF has more than {TIFF_PIECES:,} strips or tiles, or numbers without end; save it anew"
        )
    if _WIDTH not in first or _HEIGHT not in first:
        raise BrokenPhoto("the TIFF declares no size")
    width, height = first[_WIDTH], first[_HEIGHT]
    if _TILES in first:
        across, down = first.get(_TILE_WIDTH, 0), first.get(_TILE_HEIGHT, 0)
    else:
        across, down = width, min(first.get(_ROWS, height), height)
    if across < 1 or down < 1:
        raise BrokenPhoto("the TIFF declares no pixels")
    padded = -(-width // across) * across * -(-height // down) * down if _TILES in first else width * height
    samples = 1 if first.get(_PLANAR, 1) == 2 else first.get(_SAMPLES, 1)
    largest = across * down * samples * first.get(_BITS, 1) // 8
    return Layout(width, height, decoded=padded, pieces=pieces, piece_bytes=largest)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
