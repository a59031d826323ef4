"""`serving.batch` beside the loop one would write in ten minutes: Pillow and ONNX Runtime, a photo at a time, fp32.

    python -m benchmarks.batch_scoring [--photos 480] [--rounds 3]

Folders of 1600 x 1200 JPEGs, random weights (speed does not depend on them). Every round runs both programs in turn as
processes of their own, on the folder and on no photo at all, so that the rates are without start-up. Medians are shown.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.inputs import make_models, make_photos
from serving.inference.photo.cores import usable_cores

ROOT = Path(__file__).resolve().parent.parent
PLAIN = """
import sys
from pathlib import Path
import numpy as np, onnxruntime as ort
from PIL import Image

out, model, size, folder = sys.argv[1:]
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
with open(out, "w") as file:
    for path in sorted(Path(folder).glob("*.jpg")):
        image = Image.open(path).convert("RGB").resize((int(size), int(size)))
        p = float(session.run(["p_clean"], {"image": np.asarray(image)[None]})[0][0])
        print(path.name, "clean" if p >= 0.9 else "dirty", p, sep=",", file=file)
"""


class Case(NamedTuple):
    """A network, its image size, and the precision it is exported in."""

    model: str
    size: int
    precision: str


CASES = (Case("tf_efficientnet_lite0", 128, "int8"), Case("resnet50", 256, "int8"))


class Scored(NamedTuple):
    """A folder scored by one program: photos a second and CPU seconds a photo without start-up, start-up in seconds."""

    rate: float
    cpu: float
    startup: float


def spend(command: Sequence[str], environ: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a program that has to succeed."""
    before = os.times()
    subprocess.run(command, cwd=ROOT, env=os.environ | environ, check=True, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return after.elapsed - before.elapsed, cpu


def scored(command: Sequence[str], environ: dict[str, str], folder: Path) -> Scored:
    """Score the photos in `folder/photos` with a program, and those in the empty `folder/none`."""
    (start, idle), (wall, cpu) = (spend([*command, str(folder / name)], environ) for name in ("none", "photos"))
    count = len(list((folder / "photos").iterdir()))
    return Scored(count / (wall - start), (cpu - idle) / count, start)


def compare(case: Case, folder: Path, rounds: int) -> None:
    """Print a case's table; its models are in `folder/MODEL`."""
    models, out = folder / case.model, str(folder / "out.csv")
    model = {"MODEL_PATH": str(models / case.precision / "best.onnx")}
    plain = [sys.executable, "-c", PLAIN, out, str(models / "fp32" / "best.onnx"), str(case.size)]
    ours = [sys.executable, "-m", "serving.batch", "--out", out]
    pairs = [(scored(plain, {}, folder), scored(ours, model, folder)) for _ in range(rounds)]
    print(f"\n{case.model} at {case.size}, {case.precision}; {usable_cores()} cores")
    print("\n| program | images/s | CPU ms a photo | start-up s |\n|---|---|---|---|")
    names = ("Pillow + ONNX Runtime loop, fp32", f"serving.batch, {case.precision}")
    for name, runs in zip(names, zip(*pairs, strict=True), strict=True):
        rate, cpu, startup = (statistics.median(figures) for figures in zip(*runs, strict=True))
        print(f"| {name} | {rate:.1f} | {1000 * cpu:.1f} | {startup:.1f} |")
    ratio = statistics.median(ours.rate / plain.rate for plain, ours in pairs)
    print(f"\nimages/s against the loop: {ratio:.2f} x (>= 4 x is asked)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=480, help="photos in the folder")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    photos = make_photos()
    sizes = sorted(len(photo) // 1024 for photo in photos)
    print(f"{args.photos} JPEGs of 1600 x 1200, {sizes[0]} to {sizes[-1]} KiB; {args.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="dirtycar-benchmark-") as scratch:
        folder = Path(scratch)
        for name in ("photos", "none"):
            (folder / name).mkdir()
        for number in range(args.photos):
            (folder / "photos" / f"{number:05}.jpg").write_bytes(photos[number % len(photos)])
        for case in CASES:
            make_models(folder / case.model, photos, case.model, case.size)
            compare(case, folder, args.rounds)


if __name__ == "__main__":
    main()
