"""Random changes to training photos, a whole batch at a time on the device that trains.

What happens to a photo is drawn from (seed, epoch, its position in the epoch), so the number of workers and processes
changes nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL
from stages.train import dirt
from stages.train.params import AugmentParams

GEOMETRY, COLOUR = 6, 4
DRAWS = GEOMETRY + COLOUR + dirt.DRAWS  # random numbers a photo uses


def draw(seed: int, epoch: int, positions: Sequence[int]) -> Tensor:
    """Uniform random numbers in [-1, 1), float32 `[N, DRAWS]`, one row per position.

    Each position has its own stretch of the epoch's random stream, and a batch reads the stretch it spans at once.
    """
    places = np.asarray(positions)
    first = int(places.min())
    stream = np.random.PCG64(np.random.SeedSequence([seed, 2, epoch])).advance(first * DRAWS)
    rows = np.random.Generator(stream).random((int(places.max()) - first + 1, DRAWS))[places - first]
    return torch.from_numpy(2 * rows - 1).float()


def apply(images: Tensor, labels: Tensor, draws: Tensor, params: AugmentParams) -> tuple[Tensor, Tensor]:
    """Change RGB images `[N, 3, S, S]` with values in 0..255: geometry, then colour, then dirt; same shape and range.

    Labels `[N]` come back with the images that were clean and are now painted as dirty.
    """
    moving, colouring, painting = draws.split([GEOMETRY, COLOUR, dirt.DRAWS], 1)
    images = _colour(_move(images, moving, params), colouring, params)
    return _soil(images, labels, (painting + 1) / 2, params)


def _move(images: Tensor, draws: Tensor, params: AugmentParams) -> Tensor:
    """Mirror, zoom, stretch, shift and rotate in one resampling."""
    flip = torch.where((draws[:, 0] + 1) / 2 < params.flip, -1.0, 1.0)
    zoom = 1 + params.zoom * draws[:, 1]
    stretch = (1 + params.aspect * draws[:, 2]).rsqrt().reciprocal()  # not sqrt: see devices.py
    angle = math.radians(params.rotate) * draws[:, 3]
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift = 2 * params.shift * draws[:, 4:6]  # the grid spans -1..1
    # From places in the result to places in the photo, hence the inverse of each change.
    rows = (
        torch.stack([flip * cos / (zoom * stretch), -flip * sin / (zoom * stretch), shift[:, 0]], 1),
        torch.stack([sin * stretch / zoom, cos * stretch / zoom, shift[:, 1]], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _soil(images: Tensor, labels: Tensor, draws: Tensor, params: AugmentParams) -> tuple[Tensor, Tensor]:
    """Paint dirt on some of the clean images, last: a colour change could make it invisible, and the label wrong."""
    painted = torch.nonzero((draws[:, 0] < params.dirt) & (labels == CLEAN_LABEL))[:, 0]
    soiled = dirt.paint(images[painted], draws[painted, 1:])
    return images.index_copy(0, painted, soiled), labels.index_fill(0, painted, DIRTY_LABEL)


def _colour(images: Tensor, draws: Tensor, params: AugmentParams) -> Tensor:
    """Scale brightness, contrast about each photo's mean and saturation about its greys, or take all colour away."""
    brightness, contrast, saturation = (
        (1 + strength * draws[:, column]).view(-1, 1, 1, 1)
        for column, strength in enumerate((params.brightness, params.contrast, params.saturation))
    )
    saturation = saturation.where((draws[:, 3].view(-1, 1, 1, 1) + 1) / 2 >= params.grey, 0.0)
    images = images * brightness
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    grey = images.mean(1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 255)
