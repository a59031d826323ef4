"""Photos of different cars behind the fixed camera of a wash gate."""

from pathlib import Path
from unittest.mock import patch

import numpy as np

from samples import draw
from serving.inference.verdict.rule import CLASSES

GATE, GATE_CAR = 5, (4.4, 1.8, 1.5)  # the photo whose place a gate has; metres, the car its camera was set up for


def shoot(folder: Path, car: int, place: int) -> None:
    """Another car behind the camera of a wash gate: place, light and camera are those of photo `place`."""
    real, choose = draw.streams, draw.choose_camera

    def one_place(seed: int, index: int) -> list[np.random.Generator]:
        return [real(seed, place)[0], *real(seed, index)[1:]]

    with (
        patch.object(draw, "streams", one_place),
        patch.object(draw, "choose_camera", lambda rng, size, _: choose(rng, size, GATE_CAR)),
    ):
        (folder / f"{car:04}.jpg").write_bytes(draw.draw_photo(9_000, car, CLASSES[car % 4 > 0]))
