"""Dirt on the bodywork, graded by a severity in 0..1.

A photo has its own mixture of mud thrown up by the wheels, dust, road salt and bird droppings. The severity says
how much of the bodywork is visibly covered: the mixture is laid on until it covers that share, where dirt counts
by how far its colour is from the paint's. Everything random is drawn before that, and more never uncovers a pixel.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from samples.car import Car
from samples.finish import Panel, rounded
from samples.noise import Array, Colour, Rng, blur, fractal, jitter, mix, smoothstep

SOILS: tuple[Colour, ...] = (
    (0.36, 0.27, 0.18),
    (0.46, 0.35, 0.24),
    (0.28, 0.24, 0.20),
    (0.50, 0.30, 0.20),
    (0.44, 0.42, 0.38),
)
FULL_SHARE = 0.85  # of the bodywork, visibly covered at severity 1
VISIBLE = 0.3  # the difference in colour (0..1, mean of the channels) at which dirt counts in full
MOST = 1.3  # the amount at which every layer covers all it can
MAIN_KIND_ODDS = (0.20, 0.16, 0.54, 0.10)  # dust, salt, mud, droppings: in the order in which they settle


@dataclass(frozen=True)
class Layer:
    """One kind of dirt: `reach` is the amount of it, 0..1, at which a pixel starts to be covered."""

    colour: Colour
    reach: Array
    softness: float  # how much further the amount has to rise to cover the pixel
    opacity: Array

    def cover(self, amount: float) -> Array:
        return smoothstep(0, self.softness, amount - self.reach) * self.opacity


def mud(rng: Rng, panel: Panel, car: Car) -> Layer:
    """Splashes: dense along the sills and in an arc behind each wheel, thinning into specks."""
    x, z, metre = panel.x, panel.z, panel.metre
    above = (z - car.sill) / (car.belt - car.sill)
    likely = np.exp(-np.maximum(above, 0) / rng.uniform(0.2, 0.4)) * rng.uniform(0.7, 1)
    for axle in car.axles:
        away = np.hypot(x - axle, z - car.wheel_radius) / car.wheel_radius - 1.1
        behind = 0.45 + 0.55 * smoothstep(0.3, -0.5, x - axle)
        likely = np.maximum(likely, behind * np.exp(-np.maximum(away, 0) / rng.uniform(0.5, 1.0)))
    specks = fractal(rng, x.shape, max(3, metre * rng.uniform(0.03, 0.06)), 2)
    clumps = fractal(rng, x.shape, metre * 0.3, 4)
    reach = np.maximum(1.12 - 0.95 * likely - 0.45 * (0.55 * specks + 0.45 * clumps), 0.03)
    return Layer(jitter(rng, SOILS[rng.integers(len(SOILS))], 0.05), reach, 0.12, np.float32(0.78) + 0.2 * clumps)


def wiped(rng: Rng, panel: Panel) -> Array:
    """Where a sleeve or a finger went through the dust: 1 inside the strokes."""
    strokes, metre = Image.new("L", panel.mask.shape[::-1]), panel.metre
    rows, columns = np.nonzero(panel.mask)
    for _ in range(int(rng.integers(1, 5))):
        at = rng.integers(len(rows))
        steps = rng.normal(0, metre * 0.16, (6, 2)).cumsum(0) + np.array([columns[at], rows[at]])
        width = round(metre * rng.choice([0.04, 0.22]))
        ImageDraw.Draw(strokes).line([(float(a), float(b)) for a, b in steps], fill=255, width=width, joint="curve")
    return blur(np.asarray(strokes, np.float32) / 255, metre * 0.012)


def dust(rng: Rng, panel: Panel, car: Car) -> Layer:
    """A dull, uneven film, thicker below, with wiped patches."""
    below = 1 - np.clip((panel.z - car.sill) / (car.height - car.sill), 0, 1)
    uneven = fractal(rng, panel.mask.shape, panel.metre * 0.5, 5)
    thick = 0.45 + rng.uniform(0.2, 0.6) * below + 0.6 * (uneven - 0.5)
    opacity = np.clip(thick, 0, 1) * (1 - 0.85 * wiped(rng, panel)) * rng.uniform(0.75, 0.95)
    reach = 0.05 + 0.25 * uneven * (1 - below)
    return Layer(jitter(rng, (0.64, 0.56, 0.45), 0.07), reach, 0.55, opacity)


def salt(rng: Rng, panel: Panel, car: Car) -> Layer:
    """Whitish runs and spray from the lower half upwards."""
    shape, metre = panel.mask.shape, panel.metre
    above = (panel.z - car.sill) / (car.height - car.sill)
    runs = fractal(rng, shape, max(3, metre * 0.05), 2, rng.uniform(6, 14))
    spray = fractal(rng, shape, max(3, metre * 0.06), 4)
    likely = np.exp(-np.maximum(above, 0) / rng.uniform(0.35, 0.6))
    pattern = runs * 0.7 + spray * 0.3 if rng.random() < 0.6 else spray
    reach = np.maximum(1.15 - 0.75 * likely - 0.55 * pattern, 0.03)
    return Layer(jitter(rng, (0.82, 0.82, 0.80), 0.04), reach, 0.25, np.full_like(above, rng.uniform(0.5, 0.75)))


def droppings(rng: Rng, panel: Panel) -> Layer:
    """White splashes with a run below, more and larger ones as severity rises."""
    shape, metre = panel.mask.shape, panel.metre
    reach = np.full(shape, np.float32(2))
    rows, columns = np.nonzero(panel.mask)
    across = np.arange(shape[1], dtype=np.float32)[None, :] / metre
    down = np.arange(shape[0], dtype=np.float32)[:, None] / metre
    for start in np.linspace(0.1, 0.85, 12).tolist():
        at = rng.integers(len(rows))
        dx, dy = across - float(columns[at] / metre), down - float(rows[at] / metre)
        dx, dy = dx * rng.uniform(0.8, 1.4), dy * np.where(dy > 0, rng.uniform(0.25, 0.8), 1)
        reach = np.minimum(reach, start + 0.2 * (dx**2 + dy**2) / rng.uniform(0.03, 0.06) ** 2)
    ragged = 0.5 * (fractal(rng, shape, max(3, metre * 0.03), 2) - 0.5)
    return Layer((0.88, 0.88, 0.83), np.maximum(reach + ragged, 0.03), 0.05, np.full(shape, np.float32(0.92)))


def choose_mixture(rng: Rng, panel: Panel, car: Car) -> list[tuple[float, Layer]]:
    """The photo's own mixture: layers with their share of the dirt; one of them has all of it."""
    shares = np.where(rng.random(4) < 0.55, rng.uniform(0.3, 0.9, 4), 0)
    shares[rng.choice(4, p=MAIN_KIND_ODDS)] = 1
    layers = (dust(rng, panel, car), salt(rng, panel, car), mud(rng, panel, car), droppings(rng, panel))
    return [(share, layer) for share, layer in zip(shares.tolist(), layers, strict=True) if share]


def visible_share(mixture: list[tuple[float, Layer]], panel: Panel, car: Car, amount: float) -> float:
    """The share of the bodywork that `amount` of the mixture visibly covers."""
    bare = panel.mask.copy()
    for share, layer in mixture:
        contrast = np.abs(np.subtract(layer.colour, car.paint)).mean() / VISIBLE
        bare *= 1 - layer.cover(amount * share) * min(1.0, float(contrast))
    return 1 - float(bare.sum() / panel.mask.sum())


def find_amount(mixture: list[tuple[float, Layer]], panel: Panel, car: Car, share: float) -> float:
    """The amount (0..MOST) of the mixture that visibly covers `share`, by bisection."""
    low, high = 0.0, MOST
    for _ in range(9):
        middle = (low + high) / 2
        enough = visible_share(mixture, panel, car, middle) >= share
        low, high = (low, middle) if enough else (middle, high)
    return low


def soil(rng: Rng, image: Array, panel: Panel, car: Car, severity: float) -> tuple[Array, Array]:
    """The panel's dirty image, and how much of each pixel is covered (0..1, zero off the bodywork)."""
    mixture = choose_mixture(rng, panel, car)
    while visible_share(mixture, panel, car, MOST) < FULL_SHARE * 0.45:  # beige dust on beige paint, a few droppings
        mixture = choose_mixture(rng, panel, car)
    amount = find_amount(mixture, panel, car, FULL_SHARE * severity**2)
    lit = rounded(car, panel.z)
    covered = np.zeros(panel.mask.shape, np.float32)
    for share, layer in mixture:
        alpha = layer.cover(amount * share) * panel.mask
        image = mix(image, np.asarray(layer.colour, np.float32) * lit[..., None], alpha)
        covered = 1 - (1 - covered) * (1 - alpha)
    return image, covered
