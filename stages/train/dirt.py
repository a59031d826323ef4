"""Dirt painted on photos of clean cars, which are then dirty.

One photo with and without dirt has one camera, one background and one car: what tells the two apart is the dirt. So
a network cannot learn the source of a photo instead, as it can where clean and dirty photos have different sources.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 6  # random numbers a photo uses
TEXTURES = 32
OCTAVES = ((4, 1.0), (14, 0.7), (56, 0.6), (112, 0.4))  # cells a side, amplitude
TONES = ((120, 95, 70), (150, 135, 110), (90, 70, 50), (175, 170, 160))  # RGB of mud, dust, wet earth, salt


@lru_cache(maxsize=2)
def textures(size: int, device: torch.device) -> Tensor:
    """Fractal noise of zero mean and unit variance, float32 `[TEXTURES, S, S]`; the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.zeros(TEXTURES, 1, size, size)
    for cells, amplitude in OCTAVES:
        grid = torch.rand(TEXTURES, 1, cells, cells, generator=generator)
        noise += amplitude * F.interpolate(grid, (size, size), mode="bicubic")
    deviation, mean = torch.std_mean(noise, (2, 3), keepdim=True)
    return ((noise - mean) / deviation)[:, 0].to(device)


def paint(images: Tensor, draws: Tensor) -> Tensor:
    """Cover RGB images `[N, 3, S, S]`, 0..255, with dirt, more of it low and in the middle, where cars are.

    `draws`: `[N, 5]` in [0, 1): two textures, amount, opacity, tone.
    """
    size = images.shape[-1]
    known = textures(size, images.device)
    first, second = (known[(TEXTURES * draws[:, column]).long()] for column in (0, 1))
    amount, opacity = (draws[:, column, None, None] for column in (2, 3))
    place = torch.linspace(-1, 1, size, device=images.device)
    across, down = place[None, None, :], place[None, :, None]
    car = (1 - (across / 0.85) ** 2).clamp(0) * (1 - ((down - 0.15) / 0.75) ** 2).clamp(0)
    car = car.rsqrt().reciprocal()  # the root; not sqrt: see devices.py
    cover = torch.sigmoid(4 * ((first + second) / 2**0.5 + 0.2 + 0.6 * down - 0.8 * amount))
    alpha = (cover * car * (0.5 + 0.45 * opacity))[:, None]
    tones = torch.tensor(TONES, dtype=images.dtype, device=images.device)
    tone = tones[(len(TONES) * draws[:, 4]).long()][:, :, None, None]
    grey = images.mean(1, keepdim=True)
    light = 0.6 + 0.4 * grey / grey.mean((2, 3), keepdim=True).clamp(min=1)  # dirt has the shadows of what it covers
    return images + alpha * ((tone * light).clamp(0, 255) - images)
