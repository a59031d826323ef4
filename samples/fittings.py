"""What is on the shell: two-tone paint and decals, glass, lights, grille, plates, doors, handles, mirror."""

import numpy as np

from samples.canvas import BODY, GLASS, OTHER, Canvas, shade
from samples.car import PAINTS, Car
from samples.light import Light
from samples.noise import Array, Colour, Rng, jitter, mix

PLASTIC: Colour = (0.13, 0.13, 0.14)
LAMP: Colour = (0.86, 0.88, 0.90)
TAIL: Colour = (0.62, 0.06, 0.06)


def between(car: Car, first: str, second: str, fraction: float) -> Array:
    """A point of the profile on the way from one named corner to another."""
    return car.corners[first] * (1 - fraction) + car.corners[second] * fraction


def patch(
    canvas: Canvas, car: Car, low: Array, high: Array, across: tuple[float, float], colour: Colour, part: int = OTHER
) -> None:
    """A rectangle on an end or a screen, from profile point `low` up to `high`, if it faces the camera."""
    front = low[0] + high[0] > 0
    if canvas.faces(low, high) if front else canvas.faces(high, low):
        left, right = across
        canvas.polygon(car.across(np.array([low, high, high, low]), np.array([left, left, right, right])), colour, part)


def livery(canvas: Canvas, car: Car, rng: Rng) -> None:
    """Two-tone paint, a stripe, or a block of lettering on the doors: none of it is dirt."""
    kind, other = rng.random(), jitter(rng, PAINTS[rng.integers(len(PAINTS))], 0.06)
    middle, low, high = car.axles[1] * 0.1, car.sill, car.belt
    if kind < 0.08:
        outline = car.outline()
        outline[:, 1] = np.minimum(outline[:, 1], low + (high - low) * rng.uniform(0.25, 0.6))
        canvas.polygon(car.side(outline), other, BODY)
    elif kind < 0.16:
        z = low + (high - low) * rng.uniform(0.3, 0.85)
        points = np.stack([np.linspace(car.length * 0.47, -car.length * 0.48, 30), np.full(30, z)], 1)
        canvas.line(car.side(points), other, rng.uniform(0.03, 0.12))
    elif kind < 0.26:
        for row in range(int(rng.integers(1, 4))):
            z, start = low + (high - low) * (0.8 - 0.2 * row), middle + rng.uniform(0.5, 0.9)
            for letter in range(int(rng.integers(4, 14))):
                x, wide = start - letter * 0.12, rng.uniform(0.04, 0.09)
                box = np.array([(x, z), (x - wide, z), (x - wide, z - 0.09), (x, z - rng.uniform(0.05, 0.09))])
                canvas.polygon(car.side(box), other, BODY)


def side_glass(canvas: Canvas, car: Car, glass: Colour, rng: Rng) -> None:
    """The row of side windows between the pillars, with a reflection across it."""
    foot, top = car.belt + 0.04, car.height * 0.935

    def edge(lower: str, upper: str, z: float) -> float:
        return float(np.interp(z, *np.stack([car.corners[lower], car.corners[upper]])[:, ::-1].T))

    front = [edge("cowl", "screen_top", z) - 0.12 for z in (foot, top)]
    rear = [edge("glass_rear", "roof_rear", z) + 0.12 for z in (foot, top)]
    if car.kind == "van" and rng.random() < 0.6:
        rear = [front[1] - 0.75] * 2
    window = np.array([(front[0], foot), (front[1] - 0.05, top), (rear[1] + 0.05, top), (rear[0], foot)])
    canvas.polygon(car.side(window), glass, GLASS)
    start, lean, wide = rng.uniform(rear[0], front[0], 3) * [1, 0.1, 0.15]
    streak = np.array([(start, foot), (start + lean, top), (start + lean - abs(wide), top), (start - abs(wide), foot)])
    inside = np.clip(streak[:, 0], rear[1] + 0.1, front[1] - 0.1)
    canvas.polygon(car.side(np.stack([inside, streak[:, 1]], 1)), shade(glass, 1.5), GLASS)
    pillar = PLASTIC if rng.random() < 0.6 else car.paint
    for x in np.linspace(front[1], rear[1], 4 if car.kind in ("suv", "van") else 3)[1:-1]:
        canvas.line(car.side(np.array([(x, foot - 0.02), (x, top + 0.01)])), pillar, 0.07, OTHER)


def ends(canvas: Canvas, car: Car, glass: Colour, rng: Rng) -> None:
    """Windscreen, rear window, lights, grille, bumpers, plates: whichever end is seen."""
    for foot, top in (("cowl", "screen_top"), ("glass_rear", "roof_rear")):
        patch(canvas, car, between(car, foot, top, 0.1), between(car, foot, top, 0.91), (-0.88, 0.88), glass, GLASS)
    inner, plate = rng.uniform(0.5, 0.66), jitter(rng, (0.9, 0.9, 0.86), 0.05)
    for ending, lamp, upper, middle, lower in (
        ("front", LAMP, "bonnet", "nose", "sill_front"),
        ("rear", TAIL, "boot", "tail", "sill_rear"),
    ):
        base, head = between(car, middle, upper, rng.uniform(0.15, 0.4)), between(car, middle, upper, 0.9)
        for side in (-1, 1):
            patch(canvas, car, base, head, (side * inner, side * 0.97), lamp)
        bumper = [between(car, lower, middle, f) for f in (0.02, 0.3, 0.45, 0.75, 0.98)]
        patch(canvas, car, bumper[0], bumper[1], (-0.97, 0.97), PLASTIC)
        if ending == "front":
            patch(canvas, car, bumper[2], bumper[4], (-inner + 0.1, inner - 0.1), PLASTIC)
        patch(canvas, car, bumper[2], bumper[3], (-0.24, 0.24), plate)
        tip = -0.28 if ending == "front" else 0.22
        wedge = np.array([base, head, head + np.array([tip, -0.01]), base + np.array([tip * 0.5, 0.03])])
        canvas.polygon(car.side(wedge), shade(lamp, 0.95), OTHER)


def doors(canvas: Canvas, car: Car, rng: Rng) -> None:
    """Door gaps, handles, the sill, and the mirror."""
    gap = shade(car.paint, 0.45)
    front, rear = car.axles[0] - car.wheel_radius - 0.18, car.axles[1] + car.wheel_radius * 0.9
    edges = [front, (front + rear) / 2 + rng.uniform(-0.1, 0.15), rear]
    low, high = car.sill + 0.14, car.belt
    for x in edges:
        bend = 0.12 if x == edges[-1] else 0.0
        canvas.line(car.side(np.array([(x + bend, low), (x, (low + high) / 2), (x, high)])), gap, 0.016)
    canvas.line(car.side(np.array([(edges[0], low), (edges[-1] + 0.12, low)])), gap, 0.016)
    handle = shade(car.paint, 0.6) if rng.random() < 0.6 else (0.75, 0.76, 0.77)
    for x in edges[1:]:
        canvas.line(car.side(np.array([(x + 0.08, high - 0.1), (x + 0.26, high - 0.1)])), handle, 0.035)
    if rng.random() < 0.4:
        top, foot = low - 0.04, car.sill - 0.02
        sill = [(front + 0.1, top), (rear - 0.1, top), (rear - 0.1, foot), (front + 0.1, foot)]
        canvas.polygon(car.side(np.array(sill)), PLASTIC)
    x, z = car.corners["cowl"][0] - 0.32, car.belt + 0.1
    mirror = car.side(np.array([(x + 0.1, z - 0.06), (x + 0.07, z + 0.06), (x - 0.06, z + 0.07), (x - 0.09, z - 0.05)]))
    canvas.polygon(mirror - [0, 0.12, 0], shade(car.paint, 0.85) if rng.random() < 0.7 else PLASTIC)


def add_fittings(canvas: Canvas, car: Car, light: Light, rng: Rng) -> None:
    red, green, blue = mix(np.array((0.10, 0.12, 0.14)), light.sky, rng.uniform(0.08, 0.32))
    glass = (float(red), float(green), float(blue))
    livery(canvas, car, rng)
    ends(canvas, car, glass, rng)
    side_glass(canvas, car, glass, rng)
    doors(canvas, car, rng)
