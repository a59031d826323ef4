"""What becomes of photos on their way to a second copy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def without(photo: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Cut these shares off the sides."""
    width, height = photo.size
    box = left * width, top * height, (1 - right) * width, (1 - bottom) * height
    return photo.crop(tuple(round(edge) for edge in box))


def cropped(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Up to 5 % off the width and off the height, from either side or both."""
    across, down = rng.uniform(0, 0.05, 2)
    left, top = across * rng.random(), down * rng.random()
    return without(photo, left, top, across - left, down - top)


def corner(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The hardest crop: 5 % off two sides that meet."""
    left, top = 0.05 * rng.integers(0, 2, 2)
    return without(photo, left, top, 0.05 - left, 0.05 - top)


def watermarked(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half-transparent letters, a tenth of the photo's height."""
    layer = Image.new("RGBA", photo.size)
    place = rng.uniform(0, 0.4) * photo.width, rng.uniform(0, 0.85) * photo.height
    ImageDraw.Draw(layer).text(
        place, "(c) CITY FLEET", fill=(255, 255, 255, 170), font_size=max(10, photo.height // 10)
    )
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def resized(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = 2 ** rng.uniform(-1, 1)
    return photo.resize((round(factor * photo.width), round(factor * photo.height)), Image.Resampling.LANCZOS)


def turned(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    quarter = rng.integers(0, 3)
    return photo.transpose((Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)[quarter])


def mirrored(photo: Image.Image, _: np.random.Generator) -> Image.Image:
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def relit(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(rng.uniform(0.8, 1.2))


def everything(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    return relit(resized(cropped(watermarked(mirrored(photo, rng), rng), rng), rng), rng)


EDITS: dict[str, Edit] = {
    "resized 0.5 to 2": resized,
    "JPEG 30 to 95": lambda photo, _: photo,
    "cropped, up to 5 % of each axis": cropped,
    "cropped, 5 % at two sides": corner,
    "mirrored": mirrored,
    "turned by 90, 180 or 270 degrees": turned,
    "watermark": watermarked,
    "brightness, up to 20 % each way": relit,
    "all of it but turned": everything,
}


def save(kind: str, photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    """Write an edited copy as a JPEG."""
    quality = int(rng.integers(30, 96)) if kind == "JPEG 30 to 95" else 90
    EDITS[kind](photo, rng).save(path, quality=quality)
