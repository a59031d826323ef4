"""A picture to draw world polygons on, with a map beside it of what each pixel shows."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from samples.camera import Camera
from samples.noise import Array, Colour

BACKGROUND, BODY, GLASS, OTHER = range(4)  # what a pixel shows; dirt falls on BODY only


def shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (float(min(1.0, c * factor)) for c in colour)
    return red, green, blue


def disc(x: float, y: float, z: float, radius: float, start: float = 0, end: float = 2 * np.pi) -> Array:
    """An arc, or a circle, that stands upright along the car."""
    angles = np.linspace(start, end, 40)
    return np.stack([x + radius * np.cos(angles), np.full(40, y), z + radius * np.sin(angles)], 1)


class Canvas:
    def __init__(self, camera: Camera, background: Array) -> None:
        self.camera = camera
        self.picture = Image.fromarray((np.clip(background, 0, 1) * 255).astype(np.uint8))
        self.parts = Image.new("L", self.picture.size, BACKGROUND)

    def corners(self, points: Array) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in self.camera.project(points)]

    def polygon(self, points: Array, colour: Colour, part: int = OTHER) -> None:
        corners = self.corners(points)
        ImageDraw.Draw(self.picture).polygon(corners, fill=tuple(round(255 * c) for c in colour))
        ImageDraw.Draw(self.parts).polygon(corners, fill=part)

    def line(self, points: Array, colour: Colour, metres: float, part: int = BODY) -> None:
        corners = self.corners(points)
        width = max(1, round(metres * self.camera.pixels_per_metre))
        ImageDraw.Draw(self.picture).line(corners, fill=tuple(round(255 * c) for c in colour), width=width)
        ImageDraw.Draw(self.parts).line(corners, fill=part, width=width)

    def shadow(self, points: Array, metres: float, strength: float) -> None:
        """A dark polygon whose edge is `metres` soft."""
        mask = Image.new("L", self.picture.size)
        ImageDraw.Draw(mask).polygon(self.corners(points), fill=round(255 * strength))
        mask = mask.filter(ImageFilter.GaussianBlur(metres * self.camera.pixels_per_metre))
        self.picture.paste((14, 14, 18), mask=mask)

    def faces(self, start: Array, end: Array) -> bool:
        """Whether a strip across the car shows its outer face; its ends are profile points, front to rear."""
        along, sight = end - start, self.camera.position[[0, 2]] - start
        return bool(along[1] * sight[0] > along[0] * sight[1])
