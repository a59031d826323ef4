"""Draws the sample photos: `python -m samples.draw OUT [--seed N] [--processes N]`.

OUT gets {train,val,test}/{clean,dirty}/NNNN.jpg. Each photo is one car that occurs nowhere else, drawn from
(seed, index) alone. Its dirt has a severity in 0..1; whoever labels it sees that severity a little blurred and
says `dirty` above BORDER. So there is a grey zone, as with people: near the border nobody is always right.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
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

COUNTS: dict[str, dict[str, int]] = {
    "train": {"clean": 900, "dirty": 220},
    "val": {"clean": 460, "dirty": 130},
    "test": {"clean": 460, "dirty": 130},
}
BORDER = 0.47
LABEL_NOISE = 0.03  # standard deviation of the labeller's view of the severity
SEED = 7


@dataclass(frozen=True)
class Render:
    """A photo before lens and sensor, supersampled."""

    image: Array  # [H, W, 3] in 0..1
    body: Array  # [H, W], 1 where there is bodywork
    covered: Array  # [H, W], how much of a pixel is dirt
    size: tuple[int, int]  # of the finished photo


def choose_severity(rng: Rng, label: str) -> float:
    """Most cars are nearly clean; of the others most are plainly dirty. Drawn until the labeller would say `label`."""
    while True:
        severity = float(rng.beta(1.0, 9.0) if rng.random() < 0.75 else rng.beta(4.0, 1.6))
        if (severity + rng.normal(0, LABEL_NOISE) > BORDER) == (label == "dirty"):
            return severity


def streams(seed: int, index: int) -> list[Rng]:
    """Independent randomness for scene, car, dirt, severity and sensor, so that none disturbs another."""
    return np.random.default_rng([seed, index]).spawn(5)


def render(seed: int, index: int, severity: float) -> Render:
    """Photo `index` with the given dirt; scene and car do not depend on it."""
    scene, shape, spots, _, _ = streams(seed, index)
    size, light, car = choose_size(scene), choose_light(scene), choose_car(shape)
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


def draw_photo(seed: int, index: int, label: str) -> bytes:
    """The JPEG of photo `index`."""
    *_, labelling, sensor = streams(seed, index)
    rendered = render(seed, index, choose_severity(labelling, label))
    return take(sensor, rendered.image, rendered.size)


def plan(seed: int, counts: dict[str, dict[str, int]]) -> Iterator[tuple[int, str, Path]]:
    """(index, label, file) of every photo; the numbers are shuffled over the whole set and tell nothing."""
    slots = [(split, label) for split, labels in counts.items() for label, n in labels.items() for _ in range(n)]
    numbers = np.random.default_rng(seed).permutation(len(slots)) + 1
    for index, ((split, label), number) in enumerate(zip(slots, numbers, strict=True)):
        yield index, label, Path(split, label, f"{number:04d}.jpg")


def write_photo(root: Path, seed: int, item: tuple[int, str, Path]) -> None:
    index, label, file = item
    (root / file).write_bytes(draw_photo(seed, index, label))


def draw_set(out: Path, seed: int, processes: int, counts: dict[str, dict[str, int]] = COUNTS) -> None:
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
            for _ in pool.imap_unordered(partial(write_photo, root, seed), plan(seed, counts), chunksize=8):
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
