"""The camera: where it stands, how it projects, and what lens, sensor and JPEG do to the picture.

World: metres; x runs along the car with its front at +x, y across it with the seen side at -y, z up from
the ground.
"""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from samples.noise import Array, Rng

SUPERSAMPLING = 2
LONG_SIDE = (224, 288)
SHAPES = ((4 / 3, 0.45), (3 / 2, 0.3), (16 / 9, 0.1), (1.0, 0.1), (4 / 5, 0.05))  # width / height, how often
JPEG_QUALITY = (60, 92)


@dataclass(frozen=True)
class Camera:
    position: Array  # [3]
    axes: Array  # rows: right, down, forward in the world
    focal: float  # pixels
    centre: Array  # [2], pixels
    size: tuple[int, int]  # width, height of the supersampled picture

    def project(self, points: Array) -> Array:
        """World [N, 3] -> pixels [N, 2]."""
        right, down, forward = ((np.asarray(points) - self.position) * axis for axis in self.axes)
        depth = forward.sum(1)
        return np.stack([right.sum(1), down.sum(1)], 1) / depth[:, None] * self.focal + self.centre

    @cached_property
    def rays(self) -> Array:
        """The world direction [H, W, 3] that each pixel looks in."""
        width, height = self.size
        across = (np.arange(width, dtype=np.float32) + 0.5 - self.centre[0]) / self.focal
        down = (np.arange(height, dtype=np.float32) + 0.5 - self.centre[1]) / self.focal
        rays = across[None, :, None] * self.axes[0] + down[:, None, None] * self.axes[1] + self.axes[2]
        return rays.astype(np.float32)

    def hit(self, axis: int, value: float) -> tuple[Array, Array]:
        """Where each pixel meets the plane {axis = value}: the other two coordinates; far away if it never does."""
        steps = self.rays[..., axis]
        position = [float(p) for p in self.position]  # Python floats leave the arrays at 32 bits
        reach = (value - position[axis]) / np.where(np.abs(steps) < 1e-4, np.float32(1e-4), steps)
        reach = np.where(reach > 0, np.minimum(reach, 200), np.float32(200))
        first, second = (position[i] + reach * self.rays[..., i] for i in range(3) if i != axis)
        return first, second

    @property
    def pixels_per_metre(self) -> float:
        """At the car."""
        return self.focal / float(np.linalg.norm(self.position))


def choose_size(rng: Rng) -> tuple[int, int]:
    """Width and height of the finished photo."""
    ratios, odds = zip(*SHAPES, strict=True)
    ratio = rng.choice(ratios, p=odds)
    long_side = int(rng.integers(LONG_SIDE[0], LONG_SIDE[1] + 1))
    return (long_side, round(long_side / ratio)) if ratio >= 1 else (round(long_side * ratio), long_side)


def choose_camera(rng: Rng, size: tuple[int, int], box: tuple[float, float, float]) -> Camera:
    """A camera somewhere from rear to front three-quarter, with the whole car (length, width, height) in view."""
    length, width, height = box
    yaw, roll = np.radians(rng.uniform(-52, 52)), np.radians(rng.normal(0, 1.6))
    distance = rng.uniform(5.5, 11)
    target = np.array([0, 0, height * 0.45])
    position = target + distance * np.array([np.sin(yaw), -np.cos(yaw), 0]) + [0, 0, rng.uniform(0.3, 1.5)]
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = right * np.cos(roll) + down * np.sin(roll), down * np.cos(roll) - right * np.sin(roll)
    right *= rng.choice([-1, 1])  # a mirrored world: cars face either way
    frame = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    unit = Camera(position, np.stack([right, down, forward]), 1.0, np.zeros(2), frame)
    corners = [(sx * length / 2, sy * width / 2, z) for sx in (-1, 1) for sy in (-1, 1) for z in (0, height)]
    seen = unit.project(np.array(corners))
    low, high = seen.min(0), seen.max(0)
    focal = rng.uniform(0.78, 0.97) * float(np.min(np.array(frame) / (high - low)))
    slack = np.array(frame) - (high - low) * focal
    centre = -low * focal + slack * [rng.uniform(0.2, 0.8), rng.uniform(0.45, 0.85)]
    return Camera(position, unit.axes, focal, centre, frame)


def take(rng: Rng, image: Array, size: tuple[int, int]) -> bytes:
    """The supersampled image through lens, exposure, sensor and encoder: the bytes of a JPEG file."""
    picture = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    unsharp = float(rng.choice([0.3, 0.5, 0.8], p=[0.5, 0.35, 0.15]))
    picture = picture.filter(ImageFilter.GaussianBlur(SUPERSAMPLING * unsharp))
    pixels = np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32) / 255
    pixels = np.clip(pixels * np.exp(rng.normal(0, 0.10)), 0, 1) ** np.exp(rng.normal(0, 0.1))
    pixels += rng.normal(0, rng.uniform(0.002, 0.016), pixels.shape) + rng.normal(0, 0.004)
    photo, buffer = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)), io.BytesIO()
    photo.save(buffer, "JPEG", quality=int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)), optimize=True)
    return buffer.getvalue()
