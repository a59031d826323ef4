"""The parametric car: its shape, its paint, and where a point of its surface lies in the world.

The body is a side profile drawn out across the car; it narrows towards the roof, the sills and both ends.
"""

from dataclasses import dataclass

import numpy as np

from samples.noise import Array, Colour, Rng, jitter

# The profile's corners from the front bumper over the roof to the rear bumper: x as a fraction of the length
# (front = +0.5), z as a fraction of the height.
CORNERS = (
    "sill_front", "nose", "bonnet", "cowl", "screen_top", "roof", "roof_rear", "glass_rear",
    "boot", "tail", "sill_rear",
)  # fmt: skip
PROFILES: dict[str, list[tuple[float, float]]] = {
    "sedan": [
        (0.48, 0.16), (0.5, 0.40), (0.46, 0.54), (0.19, 0.66), (0.03, 0.96), (-0.07, 1.00),
        (-0.18, 0.96), (-0.35, 0.69), (-0.48, 0.66), (-0.5, 0.45), (-0.48, 0.18),
    ],
    "hatch": [
        (0.48, 0.16), (0.5, 0.40), (0.45, 0.55), (0.22, 0.66), (0.05, 0.96), (-0.1, 1.00),
        (-0.36, 0.95), (-0.46, 0.68), (-0.485, 0.60), (-0.5, 0.42), (-0.48, 0.18),
    ],
    "suv": [
        (0.48, 0.19), (0.5, 0.44), (0.47, 0.60), (0.21, 0.68), (0.09, 0.96), (-0.08, 1.00),
        (-0.41, 0.97), (-0.47, 0.68), (-0.485, 0.60), (-0.5, 0.42), (-0.48, 0.21),
    ],
    "van": [
        (0.49, 0.13), (0.5, 0.34), (0.475, 0.46), (0.34, 0.58), (0.23, 0.96), (0.1, 1.00),
        (-0.46, 0.99), (-0.49, 0.62), (-0.495, 0.50), (-0.5, 0.30), (-0.49, 0.14),
    ],
    "pickup": [
        (0.485, 0.20), (0.5, 0.45), (0.47, 0.58), (0.22, 0.64), (0.11, 0.96), (0.04, 1.00),
        (-0.1, 0.97), (-0.14, 0.66), (-0.485, 0.65), (-0.5, 0.45), (-0.48, 0.22),
    ],
}  # fmt: skip
LENGTH_HEIGHT: dict[str, tuple[float, float]] = {
    "sedan": (4.6, 1.44), "hatch": (4.0, 1.48), "suv": (4.5, 1.70), "van": (5.0, 2.0), "pickup": (5.2, 1.78),
}  # fmt: skip
PAINTS: tuple[Colour, ...] = (
    (0.90, 0.90, 0.88),
    (0.88, 0.89, 0.92),  # white
    (0.68, 0.70, 0.72),
    (0.45, 0.47, 0.49),  # silver, grey
    (0.12, 0.12, 0.13),
    (0.16, 0.17, 0.20),  # black
    (0.70, 0.13, 0.12),
    (0.45, 0.08, 0.10),  # red
    (0.14, 0.26, 0.55),
    (0.35, 0.52, 0.72),  # blue
    (0.13, 0.35, 0.25),
    (0.45, 0.52, 0.34),  # green
    (0.38, 0.27, 0.19),
    (0.52, 0.42, 0.30),  # brown
    (0.78, 0.71, 0.58),
    (0.66, 0.58, 0.46),  # beige
    (0.88, 0.72, 0.20),
    (0.82, 0.42, 0.14),  # yellow, orange
)


@dataclass(frozen=True)
class Car:
    kind: str
    length: float
    width: float
    height: float
    corners: dict[str, Array]  # name -> (x, z)
    wheel_radius: float
    axles: tuple[float, float]  # x of the front and rear wheels
    paint: Colour

    @property
    def belt(self) -> float:
        """The height where the side windows begin."""
        ends = ("cowl",) if self.kind == "van" else ("cowl", "glass_rear")
        return max(float(self.corners[end][1]) for end in ends) + 0.02

    @property
    def sill(self) -> float:
        return float(self.corners["sill_front"][1])

    def half_width(self, x: Array, z: Array) -> Array:
        roofward = np.clip((z - self.belt) / (self.height - self.belt), 0, 1)
        endward = np.clip((np.abs(x) / self.length - 0.36) / 0.14, 0, 1)
        return self.width / 2 * (1 - 0.17 * roofward - 0.14 * endward**2)

    def side(self, points: Array) -> Array:
        """Profile points [N, 2] (x, z) -> the world [N, 3], on the side that is seen."""
        x, z = np.asarray(points, float).T
        return np.stack([x, -self.half_width(x, z), z], 1)

    def across(self, points: Array, offsets: Array) -> Array:
        """Profile points [N, 2] at `offsets` [N] from -1 (seen side) to 1 (far side)."""
        x, z = np.asarray(points, float).T
        return np.stack([x, self.half_width(x, z) * np.asarray(offsets), z], 1)

    def outline(self) -> Array:
        """The rounded profile [N, 2], from the front sill over the roof to the rear sill."""
        points = np.stack([self.corners[name] for name in CORNERS])
        for _ in range(3):  # Chaikin's corner cutting
            start, end = points[:-1], points[1:]
            cut = np.stack([start * 0.75 + end * 0.25, start * 0.25 + end * 0.75], 1).reshape(-1, 2)
            points = np.concatenate([points[:1], cut, points[-1:]])
        return points


def choose_car(rng: Rng) -> Car:
    kind = str(rng.choice(list(PROFILES), p=[0.28, 0.27, 0.23, 0.12, 0.10]))
    length, height = np.array(LENGTH_HEIGHT[kind]) * rng.uniform(0.95, 1.05, 2)
    profile = np.array(PROFILES[kind]) + rng.normal(0, 0.006, (len(CORNERS), 2))
    inner = np.linspace(0, 1, len(CORNERS))
    profile[:, 0] += inner * (1 - inner) * rng.normal(0, 0.06)  # the cab further forward or back
    corners = dict(zip(CORNERS, profile * [length, height], strict=True))
    radius = rng.uniform(0.30, 0.35) * (1.12 if kind in ("suv", "pickup") else 1)
    axles = (length * rng.uniform(0.295, 0.325), -length * rng.uniform(0.28, 0.32))
    paint, width = jitter(rng, PAINTS[rng.integers(len(PAINTS))], 0.06), float(rng.uniform(1.7, 1.9))
    return Car(kind, float(length), width, float(height), corners, float(radius), axles, paint)
