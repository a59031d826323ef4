"""Near copies: candidates by perceptual hash, each then laid over the other and compared pixel by pixel.

Photos of different cars in like places have like hashes; a copy alone agrees nearly everywhere once the crop is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.cores import usable_cores
from stages.split_check.groups import Link
from stages.split_check.hashes import hashes, stack, turn
from stages.split_check.matching import pairs_within
from stages.split_check.scan import THUMBNAIL, Scanned

FLAT = 3.0  # grey levels: a thumbnail that deviates less has nothing to be recognised by
HOPELESS = 0.75  # correlation as they lie; copies cropped by 5 % of every side still reach 0.8
STEPS, REACH = 4, 0.13  # of the registration; how far scale and shift may go, as a share of half the side
TRIMMED = 0.1  # share of the pixels left out of the comparison: where the watermark is, if there is one
_BATCH = 256

Floats = NDArray[np.float32]

_SIGMA = 0.8  # of the blur that lets interpolated pixels be compared, in pixels of the thumbnail
_AXIS = ((np.arange(THUMBNAIL) + 0.5) / (THUMBNAIL / 2) - 1).astype(np.float32)  # pixel centres in -1..1
_INNER = np.zeros((THUMBNAIL, THUMBNAIL), np.float32)
_INNER[2:-2, 2:-2] = 1  # the border of a copy may have been cut off


def _blur_matrix() -> Floats:
    distance = np.subtract.outer(np.arange(THUMBNAIL), np.arange(THUMBNAIL))
    weights = np.exp(-0.5 * (distance / _SIGMA) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


_BLUR = _blur_matrix()


class Candidates(NamedTuple):
    """Pairs of thumbnails that may show one photo, `[P]` each: the first, its symmetry, the second."""

    first: NDArray[np.int64]
    symmetry: NDArray[np.int64]
    second: NDArray[np.int64]


def near_links(scanned: Sequence[Scanned], radius: int, similarity: float) -> list[Link]:
    """Photos that are copies of each other, though not pixel by pixel; of exact copies only the first takes part.

    radius: bits in which the hashes of a photo, mirrored and turned in every way, and of its copy may differ;
    similarity: 0..1, what `similarities` must at least say of the pair.
    """
    first_of = {one.look.pixels_sha256: one for one in reversed(scanned) if one.look is not None}
    photos = sorted(first_of.values(), key=lambda one: one.name)
    thumbnails = stack([one.look.thumbnail for one in photos if one.look is not None])
    pairs = candidates(thumbnails, radius)
    alike = similarities(thumbnails, pairs)
    best: dict[tuple[str, str], float] = {}
    for place in np.flatnonzero(alike >= similarity).tolist():
        names = photos[pairs.first[place]].name, photos[pairs.second[place]].name
        best[names] = max(best.get(names, 0.0), float(alike[place]))
    return sorted(Link(first, second, "near", value) for (first, second), value in best.items())


def candidates(thumbnails: NDArray[np.uint8], radius: int) -> Candidates:
    """Every pair of thumbnails `[N, S, S]` whose hashes, under some symmetry, differ in at most `radius` bits."""
    rich = np.flatnonzero(thumbnails.std(axis=(1, 2)) >= FLAT)
    found = hashes(thumbnails[rich])
    matches = pairs_within(found.ravel(), found[0], radius)
    symmetry, first = np.divmod(matches.query, max(1, len(rich)))
    once = first < matches.target
    return Candidates(rich[first[once]], symmetry[once], rich[matches.target[once]])


def similarities(thumbnails: NDArray[np.uint8], pairs: Candidates) -> NDArray[np.float64]:
    """How alike the pairs are once laid over each other, `[P]` in 0..1; 0 for those that never had a chance.

    The correlation over the best 90 % of the pixels both show, as they lie or after the first is fitted to the second
    in scale and shift along both axes, whichever is higher.
    """
    found = np.zeros(len(pairs.first))

    def compare(start: int) -> None:
        part = slice(start, start + _BATCH)
        turned = thumbnails[pairs.first[part]]
        for symmetry in np.unique(pairs.symmetry[part]):
            here = pairs.symmetry[part] == symmetry
            turned[here] = turn(turned[here], int(symmetry))
        first, second = _blurred(turned), _blurred(thumbnails[pairs.second[part]])
        everywhere = np.ones_like(first)
        hopeful = np.flatnonzero(_correlation(first, second, everywhere) >= HOPELESS)
        if len(hopeful):
            first, second, everywhere = first[hopeful], second[hopeful], everywhere[hopeful]
            moved, shown = _register(first, second)
            # A large watermark pulls at the registration; without a crop none is needed.
            found[start + hopeful] = np.maximum(
                _trimmed_correlation(first, second, everywhere), _trimmed_correlation(moved, second, shown)
            )

    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the GIL
        list(pool.map(compare, range(0, len(found), _BATCH)))
    return found


def _blurred(images: NDArray[np.uint8]) -> Floats:
    return np.asarray(_BLUR @ images.astype(np.float32) @ _BLUR.T, np.float32)


def _register(images: Floats, onto: Floats) -> tuple[Floats, Floats]:
    """Images `[P, S, S]` scaled and shifted along both axes to lie on others, and where they have pixels (0 or 1).

    Gauss-Newton on the squared difference, brightness and contrast fitted along (Baker and Matthews 2004, inverse
    compositional, so that derivatives are taken once).
    """
    count = len(images)
    down, across = np.gradient(onto, 2 / THUMBNAIL, axis=(1, 2))
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
    place = ((scale[..., None] * _AXIS + shift[..., None] + 1) * (THUMBNAIL / 2) - 0.5).astype(np.float32)
    exists = (place >= -0.5) & (place <= THUMBNAIL - 0.5)
    inside = place.clip(0, THUMBNAIL - 1)[..., None]
    weights = np.maximum(0, 1 - np.abs(inside - np.arange(THUMBNAIL, dtype=np.float32)))
    moved = weights[:, 1] @ images @ weights[:, 0].transpose(0, 2, 1)
    return moved, (exists[:, 1, :, None] & exists[:, 0, None, :]).astype(np.float32)


def _correlation(first: Floats, second: Floats, weight: Floats) -> Floats:
    """Pearson's correlation of images `[P, ...]` over the pixels of weight 1."""
    return _fit(*(images.reshape(len(images), -1) for images in (first, second, weight)))[0]


def _trimmed_correlation(first: Floats, second: Floats, weight: Floats) -> Floats:
    """The same without the TRIMMED share of pixels that fit worst."""
    first, second, weight = (images.reshape(len(images), -1) for images in (first, second, weight))
    kept, keep = weight, round((1 - TRIMMED) * first.shape[1])
    for _ in range(2):
        residual = np.where(weight > 0, _fit(first, second, kept)[1], 0)
        kept = weight * (residual <= np.partition(residual, keep, axis=1)[:, keep : keep + 1])
    return _fit(first, second, kept)[0]


def _fit(first: Floats, second: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Correlation `[P]`, and how far each pixel `[P, N]` of the second is from a straight line through the first."""
    total = weight.sum(1, keepdims=True)
    first = first - (first * weight).sum(1, keepdims=True) / total
    second = second - (second * weight).sum(1, keepdims=True) / total
    both, one, other = ((a * b * weight).sum(1) for a, b in ((first, second), (first, first), (second, second)))
    residual = np.abs(second - (both / np.maximum(one, 1e-6))[:, None] * first)
    return both / np.sqrt(np.maximum(one * other, 1e-6)), residual
