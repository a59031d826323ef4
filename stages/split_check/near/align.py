"""Laying one thumbnail over another, and saying how well it fits. All arrays are stacks: `[P, S, S]`, float32."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.split_check.scan import THUMBNAIL_SIDE

STEPS, REACH = 4, 0.13  # of the registration; how far scale and shift may go, as a share of half the side
TRIMMED_SHARE = 0.1  # share of the pixels left out of the comparison: where the watermark is, if there is one
BLOCK_SIDE = 4  # side, in pixels, of the blocks of which the worst is looked for

Floats = NDArray[np.float32]

_SIGMA = 0.8  # of the blur that lets interpolated pixels be compared, in pixels
_AXIS = ((np.arange(THUMBNAIL_SIDE) + 0.5) / (THUMBNAIL_SIDE / 2) - 1).astype(np.float32)  # pixel centres in -1..1
_INNER = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.float32)
_INNER[2:-2, 2:-2] = 1  # the border of a copy may have been cut off


def _blur_matrix() -> Floats:
    distance = np.subtract.outer(np.arange(THUMBNAIL_SIDE), np.arange(THUMBNAIL_SIDE))
    weights = np.exp(-0.5 * (distance / _SIGMA) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


_BLUR = _blur_matrix()


class Likeness(NamedTuple):
    """How well pairs fit, `[P]` each."""

    similarity: Floats  # correlation over the best 90 % of the pixels that both show, 0..1
    worst: Floats  # RMS difference in the block that fits worst, in standard deviations of the whole


def blurred(images: NDArray[np.uint8]) -> Floats:
    """Thumbnails, ready to be compared."""
    return np.asarray(_BLUR @ images.astype(np.float32) @ _BLUR.T, np.float32)


def as_they_lie(first: Floats, second: Floats) -> Likeness:
    return _likeness(first, second, np.ones_like(first))


def aligned(first: Floats, second: Floats) -> Likeness:
    """Compare after fitting the first to the second in scale and shift along both axes: undoes a crop of either."""
    moved, shown = _register(first, second)
    return _likeness(moved, second, shown)


def correlation(first: Floats, second: Floats) -> Floats:
    """Pearson's correlation over all pixels, `[P]`."""
    first, second = (images.reshape(len(images), -1) for images in (first, second))
    return _line(first, second, np.ones_like(first))[0]


def _register(images: Floats, onto: Floats) -> tuple[Floats, Floats]:
    """Images `[P, S, S]` scaled and shifted along both axes to lie on others, and where they have pixels (0 or 1).

    Gauss-Newton on the squared difference, brightness and contrast fitted along (Baker and Matthews 2004, inverse
    compositional, so that derivatives are taken once).
    """
    count = len(images)
    down, across = np.gradient(onto, 2 / THUMBNAIL_SIDE, axis=(1, 2))
    basis = np.stack([across * _AXIS, across, down * _AXIS[:, None], down, onto, np.ones_like(onto)], axis=1)
    basis = (basis * _INNER).reshape(count, 6, -1)
    normal = basis @ basis.transpose(0, 2, 1)
    ridge = 1e-5 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 * np.eye(6, dtype=np.float32)
    inverse = np.linalg.inv(normal + ridge)
    scale, shift = np.ones((count, 2), np.float32), np.zeros((count, 2), np.float32)  # across, down
    for _ in range(STEPS):
        moved, _ = _resample(images, scale, shift)
        fit = (inverse @ (basis @ moved.reshape(count, -1, 1)))[..., 0]
        step = fit[:, :4] / np.maximum(fit[:, 4:5], 0.2)
        # Where the image looks like the other one seen through this step, undo it.
        scale = (scale / (1 + step[:, 0::2]).clip(0.5, 2)).clip(1 - REACH, 1 + REACH)
        shift = (shift - scale * step[:, 1::2]).clip(-REACH, REACH)
    return _resample(images, scale, shift)


def _resample(images: Floats, scale: Floats, shift: Floats) -> tuple[Floats, Floats]:
    """Images `[P, S, S]` read at scale x position + shift (each `[P, 2]`: across, down), and which pixels exist."""
    place = ((scale[..., None] * _AXIS + shift[..., None] + 1) * (THUMBNAIL_SIDE / 2) - 0.5).astype(np.float32)
    exists = (place >= -0.5) & (place <= THUMBNAIL_SIDE - 0.5)
    inside = place.clip(0, THUMBNAIL_SIDE - 1)[..., None]
    weights = np.maximum(0, 1 - np.abs(inside - np.arange(THUMBNAIL_SIDE, dtype=np.float32)))
    moved = weights[:, 1] @ images @ weights[:, 0].transpose(0, 2, 1)
    return moved, (exists[:, 1, :, None] & exists[:, 0, None, :]).astype(np.float32)


def _likeness(first: Floats, second: Floats, weight: Floats) -> Likeness:
    """Compare where `weight` is 1 (0 elsewhere)."""
    count, blocks = len(first), THUMBNAIL_SIDE // BLOCK_SIDE
    flat_first, flat_second, kept = (images.reshape(count, -1) for images in (first, second, weight))
    shown, keep = kept, round((1 - TRIMMED_SHARE) * kept.shape[1])
    for _ in range(2):
        residual = _line(flat_first, flat_second, kept)[1] * shown
        kept = shown * (residual <= np.partition(residual, keep, axis=1)[:, keep : keep + 1])
    similarity, residual = _line(flat_first, flat_second, kept)
    squares = np.square(residual * shown).reshape(count, blocks, BLOCK_SIDE, blocks, BLOCK_SIDE).mean((2, 4))
    worst = np.sqrt(squares.reshape(count, -1).max(1)) / np.maximum(flat_second.std(1), 1e-6)
    return Likeness(similarity, worst)


def _line(first: Floats, second: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Correlation `[P]`, and how far each pixel `[P, N]` of the second is from a straight line through the first."""
    total = weight.sum(1, keepdims=True)
    first = first - (first * weight).sum(1, keepdims=True) / total
    second = second - (second * weight).sum(1, keepdims=True) / total
    both, one, other = ((a * b * weight).sum(1) for a, b in ((first, second), (first, first), (second, second)))
    residual = np.abs(second - (both / np.maximum(one, 1e-6))[:, None] * first)
    return both / np.sqrt(np.maximum(one * other, 1e-6)), residual
