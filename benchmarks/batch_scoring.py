"""`serving.batch` beside the loop one would write in ten minutes: Pillow and ONNX Runtime, a photo at a time, fp32.

    python benchmarks/batch_scoring.py [--photos 480] [--rounds 3]

Folders of 1600 x 1200 JPEGs, random weights (speed does not depend on them). Every round runs everything in turns:
both programs as processes of their own, on the folder and on no photo at all, so that the rates are without start-up;
and, in this process, decoding and the model alone, a thread on each core. Medians are shown.

Two limits. min(decode, model) is what overlapping can reach where the two do not compete: the model on a GPU. On a CPU
they share the cores, each photo costs the sum of both, and 1 / (1/decode + 1/model) is all there is to reach.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, where `serving` would be a benchmark

import numpy as np  # noqa: E402

from benchmarks.inputs import Alone, alone, make_models, make_photos  # noqa: E402
from serving.batch.reader import Reader  # noqa: E402
from serving.batch.scorer import Scorer  # noqa: E402
from serving.engine.deployment import Deployment, load  # noqa: E402
from serving.photo.cores import usable_cores  # noqa: E402
from serving.photo.decode import decode  # noqa: E402
from serving.settings import Settings  # noqa: E402

PLAIN = """
import sys
from pathlib import Path
import numpy as np, onnxruntime as ort
from PIL import Image

folder, model, size, out = sys.argv[1:]
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


CASES = (Case("tf_efficientnet_lite0", 128, "fp32"), Case("resnet50", 256, "int8"))


@dataclass(frozen=True)
class Scored:
    """A folder scored by one program: photos a second and CPU seconds a photo without start-up, start-up in seconds,
    and the most memory held, in MiB."""

    rate: float
    cpu: float
    startup: float
    memory: float


@dataclass(frozen=True)
class Round:
    """Everything in one round."""

    plain: Scored
    ours: Scored
    decode: Alone
    model: Alone


class Spent(NamedTuple):
    """Wall and CPU seconds of a process, and the most memory it held, in MiB."""

    wall: float
    cpu: float
    memory: float


def spend(command: Sequence[str], environ: dict[str, str]) -> Spent:
    """Run a program to its end; raises unless it succeeds."""
    started, memory = time.perf_counter(), 0.0
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environ, stderr=subprocess.DEVNULL)
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        # Not the usage's maximum: that counts what this process held when it forked.
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        memory = int(peak[1]) / 1024 if peak else memory
        time.sleep(0.01)
    wall = time.perf_counter() - started
    if ended[1] != 0:
        raise RuntimeError(f"{command} ended with status {ended[1]}")
    return Spent(wall, ended[2].ru_utime + ended[2].ru_stime, memory)


def scored(command: Callable[[Path], Sequence[str]], environ: dict[str, str], folder: Path) -> Scored:
    """Score the photos in `folder/photos` with a program, and those in the empty `folder/none`."""
    start, whole = (spend(command(folder / name), environ) for name in ("none", "photos"))
    count = len(list((folder / "photos").iterdir()))
    return Scored(count / (whole.wall - start.wall), (whole.cpu - start.cpu) / count, start.wall, whole.memory)


def limits(served: Deployment, photos: Sequence[bytes], seconds: float) -> tuple[Alone, Alone]:
    """Decoding a photo, and scoring one in batches as large as `serving.batch`'s, on every core."""
    settings = Settings.from_env({})
    size, batch = served.predictor.image_size, Scorer(served, settings, Reader(settings)).batch
    images = np.stack([decode(photo, size) for photo in photos[:batch]])
    decoded = alone(lambda i: decode(photos[i % len(photos)], size), seconds)
    calls = alone(lambda _: served.predictor.p_clean(images), seconds)
    return decoded, Alone(calls.rate * batch, calls.cpu / batch)


def measure(case: Case, folder: Path, photos: Sequence[bytes], rounds: int, seconds: float) -> list[Round]:
    """All rounds of a case; its models are in `folder/MODEL`."""
    models = folder / case.model
    model = {"MODEL_PATH": str(models / case.precision / "best.onnx")}
    settings = Settings.from_env(model)
    served = load(settings, settings.model_path, None)
    out, fp32 = str(folder / "out.csv"), str(models / "fp32" / "best.onnx")

    def plain(photos: Path) -> list[str]:
        return [sys.executable, "-c", PLAIN, str(photos), fp32, str(case.size), out]

    def ours(photos: Path) -> list[str]:
        return [sys.executable, "-m", "serving.batch", str(photos), "--out", out]

    return [
        Round(scored(plain, {}, folder), scored(ours, model, folder), *limits(served, photos, seconds))
        for _ in range(rounds)
    ]


def report(case: Case, rounds: Sequence[Round]) -> None:
    """Print a case's table and what it is held to."""

    def mid(figure: Callable[[Round], float]) -> float:
        return statistics.median(figure(one) for one in rounds)

    print(f"\n{case.model} at {case.size}, {case.precision}; {usable_cores()} cores")
    print("\n| program | images/s | CPU ms a photo | peak memory MiB | start-up s |\n|---|---|---|---|---|")
    for name, of in (("Pillow + ONNX Runtime loop, fp32", "plain"), (f"serving.batch, {case.precision}", "ours")):
        rate, cpu, memory, startup = (
            mid(lambda one, of=of, field=field: getattr(getattr(one, of), field))
            for field in ("rate", "cpu", "memory", "startup")
        )
        print(f"| {name} | {rate:.1f} | {1000 * cpu:.1f} | {memory:.0f} | {startup:.1f} |")
    for name, of in (("decoding alone, every core", "decode"), ("model alone, every core", "model")):
        rate, cpu = (mid(lambda one, of=of, i=i: getattr(one, of)[i]) for i in (0, 1))
        print(f"| {name} | {rate:.1f} | {1000 * cpu:.1f} | | |")
    print("\n| figure | reached | asked |\n|---|---|---|")
    print(f"| images/s against the loop | {mid(lambda one: one.ours.rate / one.plain.rate):.2f} x | >= 4 x |")
    print(f"| of 1/(1/decode + 1/model): on a CPU | {mid(lambda one: one.ours.rate / both(one)):.2f} | >= 0.9 |")
    cpu = mid(lambda one: (one.decode.cpu + one.model.cpu) / one.ours.cpu)
    print(f"| the same in CPU time, which other load disturbs less | {cpu:.2f} | >= 0.9 |")
    apart = mid(lambda one: one.ours.rate / min(one.decode.rate, one.model.rate))
    best = mid(lambda one: both(one) / min(one.decode.rate, one.model.rate))
    print(f"| of min(decode, model): beside a GPU | {apart:.2f} | on these cores {best:.2f} at best |")


def both(one: Round) -> float:
    """Photos a second where decoding and the model share the cores."""
    return 1 / (1 / one.decode.rate + 1 / one.model.rate)


def main() -> None:
    """Make photos and models, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=480, help="photos in the folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="for decoding and for the model alone, in each round")
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
            report(case, measure(case, folder, photos, args.rounds, args.seconds))


if __name__ == "__main__":
    main()
