"""Paints a car on a canvas: shadow, far wheels, shell, near wheels; the fittings have their own module."""

from itertools import pairwise

import numpy as np

from samples.canvas import BODY, Canvas, disc, shade
from samples.car import Car
from samples.fittings import add_fittings
from samples.light import Light
from samples.noise import Colour, Rng, jitter

RUBBER: Colour = (0.10, 0.10, 0.11)
DARK: Colour = (0.04, 0.04, 0.05)


def ground_shadow(canvas: Canvas, car: Car, light: Light) -> None:
    """Soft and right under the car when overcast; longer and darker to one side in the sun."""
    x, y, reach = car.length / 2, car.width / 2 + 0.08, 0.15 + 0.9 * light.hardness
    footprint = np.array([(-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0)])
    thrown = np.array([light.side * reach, -reach * 0.4, 0])
    canvas.shadow(footprint + thrown, 0.05, 0.2 + 0.5 * light.hardness)
    canvas.shadow(footprint, 0.1, 0.7)


def shell(canvas: Canvas, car: Car, light: Light) -> None:
    """The underside; bonnet, roof and ends in strips shaded by the way they face; then the side that is seen."""
    floor = np.array([(car.corners[end][0] * 0.97, car.sill + 0.04) for end in ("sill_front", "sill_rear")])
    canvas.polygon(car.across(floor[[0, 1, 1, 0]], np.array([-1, -1, 0.9, 0.9])), DARK)
    outline, eye = car.outline(), canvas.camera.position[[0, 2]]
    farthest_first = sorted(pairwise(outline), key=lambda strip: -np.linalg.norm(eye - strip[0]))
    for start, end in farthest_first:
        if canvas.faces(start, end):
            ahead, up = np.array([end[1] - start[1], start[0] - end[0]]) / np.linalg.norm(end - start)
            brightness = 0.80 + 0.34 * max(0, up) + 0.12 * ahead * light.side
            strip = car.across(np.array([start, end, end, start]), np.array([-1, -1, 1, 1]))
            canvas.polygon(strip, shade(car.paint, brightness), BODY)
    canvas.polygon(car.side(outline), car.paint, BODY)


def far_wheels(canvas: Canvas, car: Car) -> None:
    for x in car.axles:
        for offset in (0.9, 0.8, 0.7, 0.6):
            canvas.polygon(disc(x, offset * car.width / 2, car.wheel_radius, car.wheel_radius), DARK)


def near_wheels(canvas: Canvas, car: Car, rng: Rng) -> None:
    """Arches, tyres, and rims with spokes."""
    rim = jitter(rng, ((0.72, 0.73, 0.75), (0.50, 0.51, 0.53), (0.20, 0.20, 0.21))[rng.integers(3)], 0.06)
    spokes, turn = int(rng.integers(5, 11)), rng.uniform(0, 2 * np.pi)
    size, gap = rng.uniform(0.6, 0.74), rng.uniform(0.3, 0.6)
    radius = car.wheel_radius
    for x in car.axles:
        y = -float(car.half_width(np.array(x), np.array(radius)))
        canvas.polygon(disc(x, y, radius, radius * 1.16, -0.1, np.pi + 0.1), DARK)
        for inset in (0.22, 0.16, 0.10, 0.05):
            canvas.polygon(disc(x, y + inset, radius, radius), DARK)
        canvas.polygon(disc(x, y + 0.01, radius, radius), RUBBER)
        canvas.polygon(disc(x, y, radius, radius * size), rim)
        for spoke in range(spokes):
            middle, half = turn + spoke * 2 * np.pi / spokes, gap * np.pi / spokes
            inner = disc(x, y, radius, radius * size * 0.32, middle - half, middle + half)
            outer = disc(x, y, radius, radius * size * 0.88, middle + half, middle - half)
            canvas.polygon(np.concatenate([inner, outer]), shade(rim, 0.3))
        canvas.polygon(disc(x, y, radius, radius * size * 0.15), shade(rim, 0.7))


def paint_car(canvas: Canvas, car: Car, light: Light, rng: Rng) -> None:
    ground_shadow(canvas, car, light)
    far_wheels(canvas, car)
    shell(canvas, car, light)
    add_fittings(canvas, car, light, rng)
    near_wheels(canvas, car, rng)
