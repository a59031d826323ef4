"""Draws pictures of no car, from (seed, index).

What drivers send by mistake: an empty street, a wall, a garage, the ground, a dashboard, the inside of a pocket. They
measure `unusable: no_car` (benchmarks/refusals.py) and are no part of the sample.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from samples.camera import Camera, choose_camera, choose_size, take
from samples.light import Light, choose_light, illuminate
from samples.noise import Array, Rng, fractal, jitter, lookup, mix, smoothstep, texture
from samples.scene import BACKDROPS, brick, facade, fence, garage, ground, surroundings

Scene = Callable[[Rng, Camera, Light], Array]


def street(rng: Rng, camera: Camera, light: Light) -> Array:
    """Where a car of the sample would stand, without it."""
    image, open_sky = surroundings(rng, camera, light)
    return illuminate(rng, image, 1 - open_sky, light)


def wall(rng: Rng, camera: Camera, light: Light) -> Array:
    """A house, a brick wall, a fence or a hedge that fills the picture, from near."""
    backdrop = (facade, brick, fence, BACKDROPS[2])[rng.integers(4)]
    x, z = _upright(camera, rng.uniform(2.2, 5), rng.uniform(0.4, 0.8))
    colour, top = backdrop(rng, x, z)
    image = mix(np.full_like(colour, 0.85), colour, (z < top).astype(np.float32))
    return illuminate(rng, image, np.ones_like(z), light)


def hall(rng: Rng, camera: Camera, light: Light) -> Array:
    """The inside of a garage: floor, back wall, and little light."""
    x, z = camera.hit(1, rng.uniform(3, 6))
    floor_x, floor_y = camera.hit(2, 0.0)
    tone = 0.75 + 0.5 * lookup(texture(rng, 20), floor_x * 20 + 300, floor_y * 20 + 300)
    concrete = np.asarray(jitter(rng, (0.5, 0.49, 0.47), 0.12), np.float32) * tone[..., None]
    image = mix(garage(rng, x, z)[0], concrete, (z < 0).astype(np.float32))
    return illuminate(rng, image, np.ones_like(z), light) * np.float32(rng.uniform(0.3, 0.8))


def floor(rng: Rng, camera: Camera, light: Light) -> Array:
    """The ground before one's feet."""
    x, y = _upright(camera, rng.uniform(2, 4.5), 0.5)
    return illuminate(rng, ground(rng, x, y), np.ones_like(x), light)


def dashboard(rng: Rng, camera: Camera, light: Light) -> Array:
    """A road through the windscreen, above a dashboard with dials and a steering wheel."""
    picture = Image.fromarray((np.clip(street(rng, camera, light), 0, 1) * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))
    width, height = picture.size
    draw, top = ImageDraw.Draw(picture), height * rng.uniform(0.3, 0.55)
    plastic = jitter(rng, ((0.13, 0.13, 0.14), (0.32, 0.27, 0.22), (0.2, 0.2, 0.22))[rng.integers(3)], 0.05)

    def tone(factor: float) -> tuple[int, ...]:
        return tuple(int(255 * min(1.0, c * factor)) for c in plastic)

    bend = height * rng.uniform(0.02, 0.12)
    edge = [(x * width / 20, top + bend * (x / 10 - 1) ** 2) for x in range(21)]
    draw.polygon([*edge, (width, height), (0, height)], fill=tone(1))
    draw.line(edge, fill=tone(1.8), width=4)
    for side in (-1, 1):  # the pillars
        foot, lean = width * (0.5 + 0.5 * side), width * rng.uniform(0.06, 0.16)
        draw.polygon([(foot, top + bend), (foot - side * lean, top + bend), (foot, 0)], fill=tone(0.8))
    left, radius = width * rng.choice([0.3, 0.7]), height * rng.uniform(0.28, 0.4)
    middle = top + radius * rng.uniform(0.7, 1.0)
    for turn in (-0.45, 0.45):  # the dials, seen through the wheel
        x, y, r = left + turn * radius, middle - radius * 0.3, radius * 0.3
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(12, 12, 14), outline=(150, 150, 155), width=3)
        angle = rng.uniform(-2.4, 0.4)
        draw.line([(x, y), (x + r * 0.8 * np.cos(angle), y + r * 0.8 * np.sin(angle))], fill=(220, 70, 50), width=3)
    ring = [left - radius, middle - radius, left + radius, middle + radius]
    draw.ellipse(ring, outline=tone(0.4), width=int(radius * 0.16))
    draw.line([(left - radius, middle), (left + radius, middle)], fill=tone(0.45), width=int(radius * 0.2))
    hub = radius * 0.3
    draw.ellipse([left - hub, middle - hub, left + hub, middle + hub], fill=tone(0.5))
    x, y = width - left - width * 0.1, top + (height - top) * 0.25
    draw.rectangle([x, y, x + width * 0.2, y + height * 0.14], fill=(30, 50, 80), outline=tone(2.2), width=3)
    for below in (0.2, 0.23, 0.26):  # the air vents
        draw.line([(x, y + height * below), (x + width * 0.2, y + height * below)], tone(0.4), 3)
    grain = 0.9 + 0.2 * fractal(rng, (height, width), 40)
    return np.asarray(picture, np.float32) / 255 * grain[..., None]


def pocket(rng: Rng, camera: Camera, light: Light) -> Array:
    """Cloth before the lens, nearly dark, with a slit of light at times."""
    height, width = camera.size[::-1]
    cloths = ((0.10, 0.10, 0.13), (0.22, 0.10, 0.08), (0.14, 0.12, 0.10), (0.08, 0.11, 0.18))
    cloth = jitter(rng, cloths[rng.integers(4)], 0.04)
    folds = fractal(rng, (height, width), rng.uniform(80, 260), 2, rng.uniform(0.5, 2))
    weave = fractal(rng, (height, width), rng.uniform(2, 5), 1)
    image = np.asarray(cloth, np.float32) * (0.3 + 1.2 * folds + 0.2 * weave)[..., None]
    if rng.random() < 0.4:
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        slit = (columns - width * rng.uniform(0, 1)) * rng.normal() + (rows - height * rng.uniform(0, 1)) * rng.normal()
        image = mix(image, light.sky, 0.7 * smoothstep(rng.uniform(20, 90), 0, np.abs(slit)))
    return image


SCENES: dict[str, Scene] = {
    "street": street, "wall": wall, "garage": hall, "ground": floor, "dashboard": dashboard, "pocket": pocket,
}  # fmt: skip


def _upright(camera: Camera, metres: float, above: float) -> tuple[Array, Array]:
    """World coordinates of a plane right before the lens, `metres` high in the picture."""
    width, height = camera.size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    return (columns - width / 2) / height * metres, (above - rows / height) * metres + metres / 2


def draw_not_car(seed: int, index: int) -> tuple[str, bytes]:
    """Picture `index`: its kind, in turn, and its JPEG."""
    scene, sensor = np.random.default_rng([seed, index, 0, 1]).spawn(2)
    kind = list(SCENES)[index % len(SCENES)]
    size, light = choose_size(scene), choose_light(scene)
    camera = choose_camera(scene, size, (4.4, 1.8, 1.55))
    return kind, take(sensor, SCENES[kind](scene, camera, light), size)
