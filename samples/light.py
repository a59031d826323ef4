"""The light of a photo: sun, overcast sky, dusk or a lamp; its colour and the shadows it casts."""

from dataclasses import dataclass

import numpy as np

from samples.noise import Array, Colour, Rng, blur, fractal, jitter, smoothstep


@dataclass(frozen=True)
class Light:
    name: str
    gain: Colour
    hardness: float  # of the shadows, 0..1
    side: float  # where it comes from: -1 rear of the car .. 1 front
    sky: Colour


def choose_light(rng: Rng) -> Light:
    name = str(rng.choice(["sun", "overcast", "dusk", "lamp"], p=[0.4, 0.32, 0.16, 0.12]))
    gain, hardness, sky = {
        "sun": ((1.22, 1.16, 1.07), 0.5, (0.52, 0.70, 0.92)),
        "overcast": ((1.05, 1.07, 1.09), 0.12, (0.80, 0.83, 0.87)),
        "dusk": ((0.88, 0.79, 0.76), 0.25, (0.74, 0.66, 0.66)),
        "lamp": ((1.05, 0.98, 0.82), 0.35, (0.30, 0.29, 0.30)),
    }[name]
    return Light(name, jitter(rng, gain, 0.08), hardness, float(rng.uniform(-1, 1)), jitter(rng, sky, 0.08))


def illuminate(rng: Rng, image: Array, solid: Array, light: Light) -> Array:
    """Shadows of leaves or a building on what is `solid`; the lamp's cone, a shading gradient, the light's colour."""
    shape = image.shape[:2]
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) / max(shape)
    brightness = 1 + rng.normal(0, 0.18) * (columns - 0.5) + rng.normal(0, 0.12) * (rows - 0.4)
    kind = rng.random()
    if light.hardness > 0.2 and kind < 0.2:
        leaves = smoothstep(0.5, 0.7, fractal(rng, shape, rng.uniform(24, 60), 4))
        brightness *= 1 - rng.uniform(0.4, 0.8) * light.hardness * solid * blur(leaves, rng.uniform(2, 5))
    elif light.hardness > 0.2 and kind < 0.4:
        edge = columns - rng.uniform(0.2, 0.8) + rng.uniform(-0.8, 0.8) * (rows - 0.4)
        brightness *= 1 - 0.8 * light.hardness * solid * smoothstep(-0.01, 0.015, edge * rng.choice([-1, 1]))
    if light.name == "lamp":
        away = np.hypot(columns - rng.uniform(0.3, 0.7), rows - rng.uniform(0.1, 0.4))
        brightness *= 1.25 - 0.9 * smoothstep(0.1, 0.9, away)
    return image * brightness[..., None] * np.asarray(light.gain, np.float32)
