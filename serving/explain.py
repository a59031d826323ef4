"""Where in a photo its score comes from: occlusion, which needs nothing of a network but its answers.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014. What a cell adds to the logit is how
much the logit falls when the cell is covered with the photo's mean colour.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 14  # cells a side
COVER = 2  # cells a side that are covered at a time, around each cell: one alone hides too little
_STRONG = 200  # opacity of the strongest cell, of 255
_CLEAN, _DIRTY = (34, 197, 94), (249, 115, 22)


Logits = Callable[[NDArray[np.uint8]], NDArray[np.floating]]  # images [N, S, S, 3] -> [N]


def occlusion(logits: Logits, image: NDArray[np.uint8], batch: int) -> NDArray[np.float64]:
    """What each cell adds to the logit of clean, `[GRID, GRID]`; image: uint8 `[S, S, 3]`; `batch` images a call."""
    size, half = len(image), COVER / 2 / GRID
    mean = image.mean((0, 1)).round().astype(np.uint8)
    middles = (np.arange(GRID) + 0.5) / GRID
    spans = [slice(round(max(0, m - half) * size), round((m + half) * size)) for m in middles]
    found = [logits(image[None])]
    cells = [(down, across) for down in spans for across in spans]
    for start in range(0, len(cells), batch):
        covered = np.repeat(image[None], len(cells[start : start + batch]), axis=0)
        for one, (down, across) in zip(covered, cells[start : start + batch], strict=True):
            one[down, across] = mean
        found.append(logits(covered))
    whole, *rest = found
    return np.asarray(whole[0] - np.concatenate(rest), dtype=np.float64).reshape(GRID, GRID)


def overlay(photo: Image.Image, grid: NDArray[np.float64]) -> Image.Image:
    """The photo with green over what speaks for clean and orange over what speaks for dirty."""
    strength = np.abs(grid) / max(float(np.abs(grid).max()), 1e-9)
    colour = np.where(grid[..., None] > 0, _CLEAN, _DIRTY)
    cells = np.concatenate([colour, _STRONG * strength[..., None]], axis=-1).round().astype(np.uint8)
    heat = Image.fromarray(cells, "RGBA").resize(photo.size, Image.Resampling.BILINEAR)
    return Image.alpha_composite(photo.convert("RGBA"), heat).convert("RGB")
