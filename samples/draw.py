"""Draws the sample photos: `python -m samples.draw OUT [--seed N] [--processes N]`.

OUT gets {train,val,test}/{clean,dirty}/NNNN.jpg, each a car that occurs nowhere else, drawn from (seed, index) alone.
Of some cars in val and test there are four photos, carNNNN_viewV.jpg, drawn from (seed, index, view): see `views`.
The dirt in a photo has a severity in 0..1; whoever labels it sees that severity a little blurred and says `dirty`
above BORDER. So there is a grey zone, as with people: near the border nobody is always right.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from samples.body import paint_car
from samples.camera import choose_camera, choose_size, take
from samples.canvas import BACKGROUND, BODY, Canvas
from samples.car import choose_car
from samples.dirt import soil
from samples.finish import find_panel, polish
from samples.light import choose_light, illuminate
from samples.noise import Array, Rng
from samples.scene import surroundings
from samples.views import CARS, COUNTS, Counts, Shot, plan

BORDER = 0.47
LABEL_NOISE = 0.03  # standard deviation of the labeller's view of the severity
SIDES_DIFFER = 0.08  # standard deviation of the severity between a car's sides that have the same label
SEED = 7


@dataclass(frozen=True)
class Render:
    """A photo before lens and sensor, supersampled."""

    image: Array  # [H, W, 3] in 0..1
    body: Array  # [H, W], 1 where there is bodywork
    covered: Array  # [H, W], how much of a pixel is dirt
    size: tuple[int, int]  # of the finished photo


def choose_severity(rng: Rng, label: str, near: float | None = None) -> float:
    """Most cars are nearly clean; of the others most are plainly dirty. Drawn until the labeller would say `label`.

    near: the severity of another side of the car with the same label; the two are alike.
    """
    while True:
        if near is not None:
            severity = float(np.clip(near + rng.normal(0, SIDES_DIFFER), 0, 1))
        else:
            severity = float(rng.beta(1.0, 9.0) if rng.random() < 0.75 else rng.beta(4.0, 1.6))
        if (severity + rng.normal(0, LABEL_NOISE) > BORDER) == (label == "dirty"):
            return severity


def streams(seed: int, *index: int) -> list[Rng]:
    """Independent randomness for scene, car, dirt, severity and sensor, so that none disturbs another."""
    return np.random.default_rng([seed, *index]).spawn(5)


def render(seed: int, index: int, severity: float, view: int = 1) -> Render:
    """Car `index` with the given dirt; scene and car do not depend on it. Another view has its car, size and light."""
    scene, shape, spots, _, _ = streams(seed, index)
    size, light, car = choose_size(scene), choose_light(scene), choose_car(shape)
    if view > 1:
        scene, _, spots, _, _ = streams(seed, index, view)
    camera = choose_camera(scene, size, (car.length, car.width, car.height))
    background, open_sky = surroundings(scene, camera, light)
    canvas = Canvas(camera, background)
    paint_car(canvas, car, light, shape)
    parts = np.asarray(canvas.parts)
    body = (parts == BODY).astype(np.float32)
    panel, covered = find_panel(body, camera, car), np.zeros_like(body)
    solid = np.where(parts == BACKGROUND, 1 - open_sky, np.float32(1))
    image = np.asarray(canvas.picture, np.float32) / 255
    image[panel.box] = polish(shape, image[panel.box], panel, car, light)
    image[panel.box], covered[panel.box] = soil(spots, image[panel.box], panel, car, severity)
    return Render(illuminate(scene, image, solid, light), body, covered, size)


def draw_photo(seed: int, index: int, label: str, view: int = 1, first_label: str | None = None) -> bytes:
    """The JPEG of a photo of car `index`. first_label: that of view 1, where this is another one."""
    *_, labelling, sensor = streams(seed, index)
    severity = choose_severity(labelling, first_label or label)
    if view > 1:
        *_, labelling, sensor = streams(seed, index, view)
        severity = choose_severity(labelling, label, severity if label == first_label else None)
    rendered = render(seed, index, severity, view)
    return take(sensor, rendered.image, rendered.size)


def write_photo(root: Path, seed: int, shot: Shot) -> None:
    (root / shot.file).write_bytes(draw_photo(seed, shot.index, shot.label, shot.view, shot.first_label))


def draw_set(out: Path, seed: int, processes: int, counts: Counts = COUNTS, cars: Counts = CARS) -> None:
    """The whole set, all or nothing: it appears under its name when it is complete."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty: move it away, or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        root = Path(scratch, out.name)
        for split, labels in counts.items():
            for label in labels:
                (root / split / label).mkdir(parents=True)
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for _ in pool.imap_unordered(partial(write_photo, root, seed), plan(seed, counts, cars), chunksize=8):
                pass
        os.sync()  # once for all of them: a power cut must not leave the name with empty photos
        root.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the sample photos (synthetic).")
    parser.add_argument("out", type=Path, help="a new folder, or an empty one")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    try:
        draw_set(arguments.out, arguments.seed, arguments.processes)
    except FileExistsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
