"""The first image directory of a TIFF."""

from __future__ import annotations

from serving.photo.errors import BrokenPhoto, PhotoTooCostly
from serving.photo.layout import Layout, unpack

ENTRIES = 1000
NUMBERS = 100_000  # in all entries together: Pillow makes a Python object of each
PIECES = 20_000  # strips or tiles, each of which Pillow decodes by itself

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 277, 278, 284
_STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT = 273, 324, 322, 323
_SIZES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # of types of numbers
_FORMS = {3: "H", 4: "I", 16: "Q"}


def read(data: bytes) -> Layout:
    """The size, and how much of it is decoded in one. Raises BrokenPhoto or PhotoTooCostly."""
    order = "<" if data[:2] == b"II" else ">"
    big = b"+" in data[2:4]
    (start,) = unpack(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = unpack(order + ("Q" if big else "H"), data, start)
    start, each = start + (8 if big else 2), 20 if big else 12
    if count > ENTRIES:
        raise PhotoTooCostly(f"the TIFF's directory has more than {ENTRIES} entries; save it anew")
    first: dict[int, int] = {}
    counts: dict[int, int] = {}
    for at in range(start, start + each * count, each):
        tag, kind, values = unpack(order + ("HHQ" if big else "HHI"), data, at)
        counts[tag] = values
        if kind in _FORMS and values:
            place = at + (12 if big else 8)
            if _SIZES[kind] * values > (8 if big else 4):
                (place,) = unpack(order + ("Q" if big else "I"), data, place)
            (first[tag],) = unpack(order + _FORMS[kind], data, place)
        if kind not in _SIZES:
            counts[tag] = 0  # text or bytes, kept as they are
    pieces = counts.get(_STRIPS, 0) + counts.get(_TILES, 0)
    if sum(counts.values()) > NUMBERS or pieces > PIECES:
        raise PhotoTooCostly(f"the TIFF has more than {PIECES:,} strips or tiles, or numbers without end; save it anew")
    if _WIDTH not in first or _HEIGHT not in first:
        raise BrokenPhoto("the TIFF declares no size")
    return _layout(first, pieces)


def _layout(first: dict[int, int], pieces: int) -> Layout:
    """The layout, given the first value of every entry and the number of strips or tiles."""
    width, height = first[_WIDTH], first[_HEIGHT]
    tiled = _TILES in first
    across = first.get(_TILE_WIDTH, 0) if tiled else width
    down = first.get(_TILE_HEIGHT, 0) if tiled else min(first.get(_ROWS, height), height)
    if across < 1 or down < 1:
        raise BrokenPhoto("the TIFF declares no pixels")
    samples = 1 if first.get(_PLANAR, 1) == 2 else first.get(_SAMPLES, 1)
    padded = -(-width // across) * across * -(-height // down) * down if tiled else width * height
    largest = across * down * samples * first.get(_BITS, 1) // 8
    return Layout(width, height, decoded=padded, pieces=pieces, piece_bytes=largest)
