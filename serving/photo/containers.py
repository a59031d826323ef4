"""The structure of PNG, GIF, WebP, BMP, HEIF and AVIF files, as far as it tells what decoding them takes."""

from __future__ import annotations

from collections.abc import Iterator

from serving.photo.errors import BrokenPhoto, PhotoTooCostly, UnsupportedPhoto
from serving.photo.layout import Layout, unpack

CHUNKS = 20_000  # of a PNG: a file of 25 MB in pieces of 8 KB has 3,000
BLOCKS = 20_000  # of a GIF before its first frame
BOXES = 5_000  # of a HEIF or AVIF: 48 megapixels in tiles of 512 have 200


def read_png(data: bytes) -> Layout:
    """The largest size that any header chunk declares: the last one counts for Pillow."""
    largest, at = (0, 0), 8
    for _ in range(CHUNKS):
        if at + 8 > len(data):
            break
        length, kind = unpack(">I4s", data, at)
        if kind == b"IHDR":
            largest = max(largest, unpack(">II", data, at + 8), key=lambda size: size[0] * size[1])
        elif kind == b"IEND":
            break
        at += 12 + length
    else:
        raise PhotoTooCostly(f"the PNG has more than {CHUNKS:,} chunks; save it anew")
    return Layout(*largest)


def read_gif(data: bytes) -> Layout:
    """The screen, or the first frame where it reaches beyond."""
    width, height, flags = unpack("<HHB", data, 6)
    at, inside = 13 + _palette(flags), False  # inside an extension, of which blocks follow until an empty one
    for _ in range(BLOCKS):
        if inside:
            inside = data[at] > 0
            at += 1 + data[at]
            continue
        kind = data[at]
        if kind == 0x2C:
            left, top, wide, high = unpack("<HHHH", data, at + 1)
            return Layout(max(width, left + wide), max(height, top + high))
        inside = kind == 0x21
        at += 2 if inside else 1  # an extension and its label; Pillow looks for a frame at every other byte
    raise PhotoTooCostly("the GIF has too many blocks before its first frame; save it anew")


def _palette(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


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
        width, height, _, bits = unpack("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = unpack("<iiHHI", data, 18)
    if compression not in (0, 3):  # 3: bit masks
        raise UnsupportedPhoto("a compressed BMP is not read; save it uncompressed, or as PNG or JPEG")
    width, height = abs(width), abs(height)
    if offset + (width * bits + 31) // 32 * 4 * height > len(data):
        raise BrokenPhoto("the BMP photo is damaged or cut short: it has fewer bytes than its size needs")
    return Layout(width, height)


def read_heif(data: bytes) -> Layout:
    """The largest image that the container declares: the primary one, or what it is made of."""
    start, end = 0, len(data)
    for path, skip in ((b"meta", 0), (b"iprp", 4), (b"ipco", 0)):  # meta begins with its version
        found = ((begin, stop) for kind, begin, stop in _boxes(data, start + skip, end) if kind == path)
        start, end = next(found, (end, end))
    sizes = [unpack(">II", data, begin + 4) for kind, begin, _ in _boxes(data, start, end) if kind == b"ispe"]
    if not sizes:
        raise BrokenPhoto("the HEIF or AVIF declares no size of its image")
    return Layout(*max(sizes, key=lambda size: size[0] * size[1]))


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two places: kind, and where the payload begins and ends. Raises PhotoTooCostly."""
    for _ in range(BOXES):
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
    raise PhotoTooCostly(f"the HEIF or AVIF has more than {BOXES:,} boxes; save it anew")
