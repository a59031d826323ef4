"""A perceptual hash of 64 bits that survives re-encoding, and those of a photo's mirrored, turned and cropped copies.

Bit k is the sign of the k-th lowest frequency of the thumbnail's cosine transform (after Zauner 2010, pHash; the signs
themselves instead of a comparison with their median, since mirroring then flips known bits and turning swaps them).
Cropping by 5 % on one side changes up to 15 bits. So the hashes of a few crops are made as well: of any copy cropped
by so much, one of them is near.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.split_check.look import THUMBNAIL

BITS = 64
_SIDE = 12  # more frequencies per axis than the lowest 64 reach
_ORDER = sorted(
    ((y, x) for y in range(_SIDE) for x in range(_SIDE) if y + x), key=lambda at: (at[0] ** 2 + at[1] ** 2, at)
)[:BITS]
_ROWS, _COLUMNS = np.array(_ORDER).T
_COSINES = np.cos(np.pi * np.outer(np.arange(_SIDE), np.arange(THUMBNAIL) + 0.5) / THUMBNAIL).astype(np.float32)
_BLOCK = 4096
_EDGE, _CENTRE = 0.04, 0.025
# Shares cut off at the left, top, right and bottom: nothing, all around, and at each corner.
CROPS = (
    (0.0, 0.0, 0.0, 0.0),
    (_CENTRE, _CENTRE, _CENTRE, _CENTRE),
    (_EDGE, _EDGE, 0.0, 0.0),
    (_EDGE, 0.0, 0.0, _EDGE),
    (0.0, _EDGE, _EDGE, 0.0),
    (0.0, 0.0, _EDGE, _EDGE),
)

# (transposed, top to bottom, left to right): the 8 symmetries of a square, the first of which changes nothing.
SYMMETRIES = tuple((swap, down, across) for swap in (False, True) for down in (False, True) for across in (False, True))


def stack(thumbnails: Sequence[bytes]) -> NDArray[np.uint8]:
    """Thumbnails as one array `[N, THUMBNAIL, THUMBNAIL]`."""
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)


def turn(images: NDArray[np.uint8], symmetry: int) -> NDArray[np.uint8]:
    """Images `[N, S, S]` under one of SYMMETRIES."""
    swap, down, across = SYMMETRIES[symmetry]
    images = images.transpose(0, 2, 1) if swap else images
    return images[:, :: -1 if down else 1, :: -1 if across else 1]


def hashes(thumbnails: NDArray[np.uint8], crop: int = 0) -> NDArray[np.uint64]:
    """Hashes `[8, N]` of thumbnails cut by one of CROPS: row s is that of every thumbnail under symmetry s."""
    left, top, right, bottom = CROPS[crop]
    vertical, horizontal = _COSINES @ _enlarging(top, bottom), _COSINES @ _enlarging(left, right)
    found = np.empty((len(SYMMETRIES), len(thumbnails)), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = vertical @ thumbnails[start : start + _BLOCK].astype(np.float32) @ horizontal.T
        for row, (swap, down, across) in enumerate(SYMMETRIES):
            values = (block.transpose(0, 2, 1) if swap else block)[:, _ROWS, _COLUMNS]
            # Mirroring turns the sign of the odd frequencies across the mirror.
            odd = (_ROWS % 2 * down + _COLUMNS % 2 * across) % 2
            bits = np.where(odd, -values, values) > 0
            found[row, start : start + _BLOCK] = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]
    return found


def _enlarging(before: float, after: float) -> NDArray[np.float32]:
    """A matrix `[S, S]` that stretches what lies between two cuts, as shares of an axis, over the whole axis."""
    pixels = np.arange(THUMBNAIL, dtype=np.float32)
    place = (before + (pixels + 0.5) / THUMBNAIL * (1 - before - after)) * THUMBNAIL - 0.5
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(place.clip(0, THUMBNAIL - 1)[:, None] - pixels))
    return weights
