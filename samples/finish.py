"""The look of painted metal: rounded shading, reflections of sky and houses, wet shine, water drops."""

from dataclasses import dataclass

import numpy as np

from samples.camera import Camera
from samples.car import Car
from samples.light import Light
from samples.noise import Array, Rng, blur, fractal, mix, smoothstep


@dataclass(frozen=True)
class Panel:
    """The bodywork, in the box of the picture that bounds it: all fields have the shape of that box."""

    box: tuple[slice, slice]
    mask: Array  # 1 where there is bodywork
    x: Array  # metres, on the plane of the car's side
    z: Array
    metre: float  # in pixels


def find_panel(mask: Array, camera: Camera, car: Car) -> Panel:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    x, z = camera.hit(1, -car.width / 2)
    return Panel(box, mask[box], x[box], z[box], camera.pixels_per_metre)


def rounded(car: Car, z: Array) -> Array:
    """How bright the side is at height z: tucked under at the sill, a crease, a lit shoulder."""
    height = (z - car.sill) / (car.belt - car.sill)
    shoulder = 0.16 * np.exp(-(((height - 0.93) / 0.07) ** 2)) - 0.10 * np.exp(-(((height - 0.80) / 0.06) ** 2))
    return 0.62 + 0.36 * smoothstep(-0.1, 0.75, height) + shoulder


def polish(rng: Rng, image: Array, panel: Panel, car: Car, light: Light) -> Array:
    """The panel's `image`, its bodywork shaded and shining."""
    shape, metre, x, z = panel.mask.shape, panel.metre, panel.x, panel.z
    shaded = image * rounded(car, z)[..., None]
    wavy = 0.06 * fractal(rng, shape, metre * 0.8, 2) + 0.03 * x * rng.normal()
    height = (z - car.sill) / (car.belt - car.sill) + wavy
    gloss = rng.uniform(0.05, 0.35)
    sky = smoothstep(0.50, 0.62, height) * (1 - 0.5 * smoothstep(0.75, 1.0, height))
    shaded = mix(shaded, light.sky, gloss * sky)
    kind = rng.random()
    if kind < 0.2:  # houses and trees mirrored in the doors
        blocks = smoothstep(0.4, 0.62, fractal(rng, shape, metre * 0.5, 2, rng.choice([1.5, 3.0])))
        shaded = shaded * (1 - rng.uniform(0.06, 0.16) * blocks * smoothstep(0.1, 0.3, height))[..., None]
    elif kind < 0.4:  # rain drops: each a bright point above a dark one
        dots = smoothstep(0.955, 0.985, fractal(rng, shape, max(3, metre * 0.035), 1)) * rng.uniform(0.3, 0.7)
        shaded = mix(shaded * (1 - 0.6 * np.roll(dots, 2, axis=0))[..., None], (0.95, 0.96, 0.97), dots)
    elif kind < 0.55:  # a wet or freshly waxed sheen
        sheen = smoothstep(0.6, 0.85, fractal(rng, shape, metre * 0.6, 2, 0.3))
        shaded = mix(shaded, (0.93, 0.94, 0.96), blur(sheen, metre * 0.02) * rng.uniform(0.15, 0.4))
    return mix(image, shaded, panel.mask)
