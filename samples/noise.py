"""Random textures and the small pixel arithmetic that every other module here uses.

Images are arrays [H, W, 3] in 0..1, fields are arrays [H, W]; lengths are in pixels unless said otherwise.
"""

import numpy as np
from PIL import Image, ImageFilter

Rng = np.random.Generator
Array = np.ndarray
Colour = tuple[float, float, float]


def fractal(rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 3, stretch: float = 1.0) -> Array:
    """Smooth noise, about uniform on 0..1; features are `cell` wide and `cell * stretch` high."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        rows = int(height / (cell * stretch) * 2**octave) + 3
        columns = int(width / cell * 2**octave) + 3
        grid = rng.random((min(rows, height), min(columns, width)), np.float32)
        field = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(field) * 0.6**octave
    scores = (total - total.mean()) / (total.std() + 1e-6)
    return 1 / (1 + np.exp(-1.7 * scores))  # the logistic is close to the normal's distribution function


def texture(rng: Rng, cell: float, octaves: int = 4) -> Array:
    """A square of noise to be read with `lookup`."""
    return fractal(rng, (256, 256), cell, octaves)


def lookup(tile: Array, x: Array, y: Array) -> Array:
    """`tile` at world positions already scaled to its pixels; mirrored at its borders, so it has no seams."""
    last = tile.shape[0] - 1
    columns = np.abs(x.astype(np.int32) % (2 * last) - last)
    rows = np.abs(y.astype(np.int32) % (2 * last) - last)
    return tile[rows, columns]


def smoothstep(low: float, high: float, values: Array) -> Array:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(below: Array, above: Array | Colour, alpha: Array | float) -> Array:
    """`above` over `below`; a field as alpha is the same for the three channels."""
    weight = alpha[..., None] if isinstance(alpha, np.ndarray) else np.float32(alpha)
    return below + (np.asarray(above, np.float32) - below) * weight


def blur(field: Array, radius: float) -> Array:
    """Gaussian blur of a field in 0..1, at 8 bits."""
    image = Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def jitter(rng: Rng, colour: Colour, amount: float) -> Colour:
    """The colour with its brightness and each channel moved by up to `amount`."""
    shift = rng.uniform(-amount, amount) + rng.uniform(-amount, amount, 3) / 3
    red, green, blue = np.clip(np.asarray(colour) + shift, 0, 1)
    return float(red), float(green), float(blue)
