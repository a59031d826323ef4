"""A perceptual hash of 64 bits that survives re-encoding, and that of a photo's mirrored and turned copies for free.

Bit k is the sign of the k-th lowest frequency of the thumbnail's cosine transform (after Zauner 2010, pHash; the signs
themselves instead of a comparison with their median, since mirroring then flips known bits and turning swaps them).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.split_check.scan import THUMBNAIL

BITS = 64
_SIDE = 12  # more frequencies per axis than the lowest 64 reach
_ORDER = sorted(
    ((y, x) for y in range(_SIDE) for x in range(_SIDE) if y + x), key=lambda at: (at[0] ** 2 + at[1] ** 2, at)
)[:BITS]
_ROWS, _COLUMNS = np.array(_ORDER).T
_COSINES = np.cos(np.pi * np.outer(np.arange(_SIDE), np.arange(THUMBNAIL) + 0.5) / THUMBNAIL).astype(np.float32)
_BLOCK = 4096

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


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes `[8, N]`: row s is that of every thumbnail under symmetry s."""
    found = np.empty((len(SYMMETRIES), len(thumbnails)), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = _COSINES @ thumbnails[start : start + _BLOCK].astype(np.float32) @ _COSINES.T
        for row, (swap, down, across) in enumerate(SYMMETRIES):
            values = (block.transpose(0, 2, 1) if swap else block)[:, _ROWS, _COLUMNS]
            # Mirroring turns the sign of the odd frequencies across the mirror.
            odd = (_ROWS % 2 * down + _COLUMNS % 2 * across) % 2
            bits = np.where(odd, -values, values) > 0
            found[row, start : start + _BLOCK] = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]
    return found
