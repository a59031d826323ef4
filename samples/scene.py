"""What stands around the car: ground, backdrop, sky.

Ground and backdrop are planes of the world; every pixel is painted from where its ray meets them.
"""

from collections.abc import Callable

import numpy as np

from samples.camera import Camera
from samples.light import Light
from samples.noise import Array, Colour, Rng, fractal, jitter, lookup, mix, smoothstep, texture

# Base colour, grain (contrast, how many texels per metre), and contrast of the large patches.
GROUNDS: dict[str, tuple[Colour, float, float, float]] = {
    "asphalt": ((0.40, 0.40, 0.42), 0.16, 40, 0.10),
    "wet": ((0.27, 0.29, 0.32), 0.10, 40, 0.40),
    "concrete": ((0.62, 0.61, 0.58), 0.10, 25, 0.16),
    "paving": ((0.56, 0.52, 0.48), 0.14, 30, 0.12),
    "grass": ((0.34, 0.45, 0.20), 0.40, 45, 0.30),
    "gravel": ((0.58, 0.54, 0.48), 0.45, 60, 0.14),
    "mud": ((0.42, 0.32, 0.22), 0.34, 30, 0.40),
}


def facade(rng: Rng, x: Array, z: Array) -> tuple[Array, Array]:
    """A rendered house front with rows of windows, and a plinth."""
    wall = jitter(rng, ((0.74, 0.68, 0.58), (0.66, 0.44, 0.36), (0.70, 0.72, 0.73))[rng.integers(3)], 0.1)
    pitch, storey, glass = rng.uniform(1.8, 3.2), rng.uniform(2.6, 3.4), jitter(rng, (0.24, 0.29, 0.35), 0.08)
    across, up = (x + rng.uniform(0, 3)) / pitch, (z - rng.uniform(0, 0.6)) / storey
    inside, rise = np.abs(across % 1 - 0.5), np.abs(up % 1 - 0.55)
    shade = 0.88 + 0.2 * lookup(texture(rng, 20), x * 20, z * 20)
    colour = np.asarray(wall, np.float32) * shade[..., None]
    colour = mix(colour, (0.85, 0.84, 0.82), ((inside < 0.31) & (rise < 0.3)).astype(np.float32))
    lit = lookup(texture(rng, 2), np.floor(across) * 7, np.floor(up) * 7)
    pane = np.asarray(glass, np.float32) * (0.6 + 0.9 * lit)[..., None]
    colour = mix(colour, pane, ((inside < 0.27) & (rise < 0.27) & (inside > 0.015)).astype(np.float32))
    return mix(colour, (0.42, 0.40, 0.38), (z < rng.uniform(0.2, 0.6)).astype(np.float32)), np.full_like(x, 30)


def brick(rng: Rng, x: Array, z: Array) -> tuple[Array, Array]:
    """A wall of bricks or blocks, often low enough to see the sky above."""
    high, long = (0.09, 0.26) if rng.random() < 0.6 else (0.22, 0.5)
    course = np.floor(z / high)
    joint = (z / high % 1 < 0.14) | ((x / long + course % 2 / 2) % 1 < 0.06)
    tone = lookup(texture(rng, 1.5, 1), np.floor(x / long + course % 2 / 2) * 3, course * 3)
    brick_colour = jitter(rng, ((0.58, 0.33, 0.26), (0.60, 0.55, 0.48))[rng.integers(2)], 0.08)
    colour = np.asarray(brick_colour, np.float32) * (0.8 + 0.35 * tone)[..., None]
    return mix(colour, (0.70, 0.67, 0.62), joint * np.float32(0.6)), np.full_like(x, rng.choice([1.3, 2.2, 12]))


def greenery(rng: Rng, x: Array, z: Array) -> tuple[Array, Array]:
    """A hedge or a row of trees."""
    tall = rng.random() < 0.5
    leaves, shape = texture(rng, 9, 5), texture(rng, 30, 3)
    height, uneven = (rng.uniform(4, 7), 1.8) if tall else (rng.uniform(0.9, 1.8), 0.3)
    top = height + uneven * (lookup(shape, x * 14 + 500, z * 0) - 0.5)
    tone = lookup(leaves, x * 30 + 500, z * 30) * 0.75 + 0.45 * lookup(shape, x * 20, z * 20)
    colour = np.asarray(jitter(rng, (0.27, 0.40, 0.17), 0.07), np.float32) * (0.35 + tone)[..., None]
    if tall:
        trunk = (np.abs((x + 50) % rng.uniform(2.2, 4) - 1) < 0.14) & (z < 1.9)
        gap = smoothstep(1.7, 1.3, z) * (lookup(leaves, x * 12, z * 16) > 0.25)
        colour = mix(colour, jitter(rng, (0.62, 0.66, 0.60), 0.1), gap * np.float32(0.8))
        colour = mix(colour, (0.26, 0.20, 0.15), trunk.astype(np.float32))
    return colour, top


def hills(rng: Rng, x: Array, z: Array) -> tuple[Array, Array]:
    """Open country: a low line of far hills and woods."""
    ridge = rng.uniform(0.4, 1.2) + 1.2 * lookup(texture(rng, 60, 4), x * 5 + 500, z * 0)
    colour = np.asarray(jitter(rng, (0.40, 0.50, 0.44), 0.1), np.float32) * np.ones((*x.shape, 1), np.float32)
    return colour * (0.85 + 0.3 * lookup(texture(rng, 8), x * 20, z * 20))[..., None], ridge


def garage(rng: Rng, x: Array, z: Array) -> tuple[Array, Array]:
    """A concrete hall or a row of roller doors, with pillars and a painted band."""
    wall = np.asarray(jitter(rng, (0.58, 0.57, 0.54), 0.12), np.float32)
    colour = wall * (0.85 + 0.25 * lookup(texture(rng, 25), x * 18, z * 18))[..., None]
    bay = (x + rng.uniform(0, 4)) % rng.uniform(3.2, 5)
    if rng.random() < 0.5:
        slats = 0.82 + 0.18 * (z / 0.25 % 1)
        door = np.asarray(jitter(rng, (0.62, 0.64, 0.66), 0.2), np.float32) * slats[..., None]
        colour = mix(colour, door, ((bay > 0.4) & (z < 2.4)).astype(np.float32))
    else:
        colour = mix(colour, jitter(rng, (0.75, 0.60, 0.2), 0.2), ((z > 0.9) & (z < 1.15)).astype(np.float32))
        colour = mix(colour, tuple(wall * 0.7), (bay < 0.45).astype(np.float32))
    return colour, np.full_like(x, 30)


def fence(rng: Rng, x: Array, z: Array) -> tuple[Array, Array]:
    """Upright boards."""
    pitch = rng.uniform(0.1, 0.22)
    tone = lookup(texture(rng, 1.5, 1), np.floor(x / pitch) * 3 + 300, z * 4)
    colour = np.asarray(jitter(rng, (0.50, 0.40, 0.30), 0.14), np.float32) * (0.75 + 0.45 * tone)[..., None]
    return mix(colour, (0.15, 0.13, 0.11), (x / pitch % 1 < 0.1).astype(np.float32)), np.full_like(
        x, rng.uniform(1.3, 2.1)
    )


Backdrop = Callable[[Rng, Array, Array], tuple[Array, Array]]  # colour, and how high it reaches, at (x, z)
BACKDROPS: tuple[Backdrop, ...] = (facade, brick, greenery, hills, garage, fence)


def ground(rng: Rng, x: Array, y: Array) -> Array:
    """The ground at world (x, y): a material, worn in patches, maybe with joints or painted lines."""
    name = str(rng.choice(list(GROUNDS), p=[0.26, 0.12, 0.14, 0.12, 0.12, 0.12, 0.12]))
    base, grain, scale, patches = GROUNDS[name]
    near = np.exp(-np.hypot(x, y) / 14)  # detail dissolves with distance instead of flickering
    fine = lookup(texture(rng, 5), x * scale, y * scale) - 0.5
    coarse = lookup(texture(rng, 24, 3), x * 12 + 300, y * 12 + 300) - 0.5
    tone = 1 + grain * fine * near + patches * coarse
    colour = np.asarray(jitter(rng, base, 0.06), np.float32) * tone[..., None]
    if name == "wet":
        colour = mix(colour, (0.66, 0.70, 0.75), 0.6 * smoothstep(0.1, 0.3, coarse))
    if name == "paving":
        joint = (x / 0.4 % 1 < 0.07) | (y / 0.4 % 1 < 0.07)
        colour = mix(colour, (0.35, 0.33, 0.31), joint * near * 0.7)
    if name in ("asphalt", "wet", "concrete") and rng.random() < 0.5:
        bays = rng.random() < 0.6
        line = np.abs(x % rng.uniform(5.2, 6.5) - 2.9 if bays else y + rng.uniform(1.4, 2.2)) < 0.06
        colour = mix(colour, (0.86, 0.86, 0.82), line * np.float32(0.8))
    return colour


def surroundings(rng: Rng, camera: Camera, light: Light) -> tuple[Array, Array]:
    """Sky, backdrop and ground as seen, before the light's colour; and a mask (0/1) of the open sky."""
    backdrop = BACKDROPS[rng.integers(len(BACKDROPS))]
    distance = 40.0 if backdrop is hills else rng.uniform(1.8, 6)
    x, z = camera.hit(1, distance)
    horizon = np.clip(camera.rays[..., 2] * 2.2, 0, 1)
    clouds = 0.35 * smoothstep(0.5, 0.9, fractal(rng, x.shape, 160)) * horizon
    sky = mix(np.broadcast_to(np.float32(0.9), (*x.shape, 3)), light.sky, 0.25 + 0.75 * horizon)
    image = mix(sky, (0.95, 0.95, 0.96), clouds)
    colour, top = backdrop(rng, x, z)
    image = mix(image, colour, (z < top).astype(np.float32))
    ground_x, ground_y = camera.hit(2, 0.0)
    below = (camera.rays[..., 2] < 0) & (ground_y < distance)
    open_sky = ((z >= top) & ~below).astype(np.float32)
    return mix(image, ground(rng, ground_x, ground_y), below.astype(np.float32)), open_sky
