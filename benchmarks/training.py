"""Training beside a plain recipe: whole runs of the train stage and of plain_recipe.py, in turn, several seeds.

    python -m benchmarks.training [--models tf_efficientnet_lite0 resnet50] [--photos 480 240] [--seeds 3] [--quick]

The photos are the drawn sample ones, blown up to 1600 x 1200 JPEGs of a phone's size, so the AUCs say nothing of real
photos. What a GPU does beside its limits: gpu.py.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from sklearn.metrics import roc_auc_score

from serving.inference.photo.cores import usable_cores
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, Photo, list_photos
from stages.common.network.model import Checkpoint, Normalise
from stages.common.network.scoring import score
from stages.common.pixels.photo_set import PhotoSet
from stages.train.params import Params
from stages.train.sampling import hold_out

ROOT = Path(__file__).resolve().parent.parent
SIZE, EPOCHS = 224, 5
SHARES = {"train": 1.0, "val": 0.1, "test": 0.5}  # photos of each split, for one of train
FIGURES = {"tf_efficientnet_lite0": 1.4, "resnet50": 2.0}  # images/s against the plain recipe

HEAD = """| seed | dirtycar s | plain s | times as fast | AUC dirtycar | AUC plain | MiB dirtycar | MiB plain |
|---|---|---|---|---|---|---|---|"""


def write_photos(folder: Path, count: int) -> None:
    """`count` train photos and so on from the sample, a fifth of them dirty, as 1600 x 1200 JPEGs of about 400 KB."""
    jobs = []
    for split, share in SHARES.items():
        for label, part in (("clean", 0.8), ("dirty", 0.2)):
            sources = sorted((ROOT / "data_cars" / split / label).iterdir())[: max(4, round(count * share * part))]
            (folder / split / label).mkdir(parents=True)
            jobs += [(source, folder / split / label / source.name) for source in sources]
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        sizes = list(pool.map(blow_up, *zip(*jobs, strict=True), chunksize=16))
    print(
        f"{len(sizes)} photos, {min(sizes) // 1024} to {max(sizes) // 1024} KiB, median {np.median(sizes) / 1024:.0f}"
    )


def blow_up(source: Path, target: Path) -> int:
    """A sample photo as a phone would send it: large, with grain; its bytes."""
    large = Image.open(source).convert("RGB").resize((1600, 1200), Image.Resampling.BICUBIC)
    seed = list(source.stem.encode())
    grain = np.random.default_rng(seed).normal(0, 7, (1200, 1600, 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(large) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    target.write_bytes(buffer.getvalue())
    return len(buffer.getvalue())


def stage(name: str, folder: Path) -> float:
    """Run a stage in a folder; its peak memory in MiB."""
    scratch = str(folder / "scratch")
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "DIRTYCAR_SCRATCH": scratch}
    with (folder / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", f"stages.{name}"], cwd=folder, env=env, stdout=log, stderr=log)
        _, status, usage = os.wait4(run.pid, 0)
    if status:
        sys.exit((folder / "log").read_text())
    return usage.ru_maxrss / 1024


def held_out(folder: Path, params: Params) -> tuple[list[Photo], list[Photo]]:
    """The train photos as the train stage divides them."""
    photos = list_photos(folder / "data_cars", "train")
    return hold_out(photos, [photo.name for photo in photos], params.train.holdout, params.train.seed)


def ours(folder: Path, params: Params) -> dict[str, float]:
    """A whole run of the train stage, decoding included; AUC on test."""
    shutil.rmtree(folder / "scratch" / "pixels", ignore_errors=True)
    start = time.perf_counter()
    peak = stage("train", folder)
    seconds = time.perf_counter() - start
    checkpoint = Checkpoint.load(folder / "artifacts/best.pt")
    data = replace(params.data, root=str(folder / "data_cars"), cache="none")
    photos = PhotoSet(data, list_photos(folder / "data_cars", "test"), SIZE)
    normalise = Normalise(checkpoint.mean, checkpoint.std)
    logits = score(checkpoint.network(), normalise, photos, batch_size=64, num_workers=0)
    return {"seconds": seconds, "auc": float(roc_auc_score(photos.labels == CLEAN_LABEL, logits)), "peak_mb": peak}


def plain(folder: Path, params: Params) -> dict[str, float]:
    """A whole run of the plain recipe."""
    train, (_, held) = params.train, held_out(folder, params)
    (folder / "held.json").write_text(json.dumps([photo.name for photo in held]))
    values = (
        folder / "data_cars", params.model, SIZE, train.batch_size, EPOCHS, train.lr, train.weight_decay, train.seed,
        folder / "artifacts/backbone.safetensors", folder / "held.json",
    )  # fmt: skip
    command = [sys.executable, str(ROOT / "benchmarks/plain_recipe.py"), *map(str, values)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(folder: Path, model: str, count: int, seeds: int) -> None:
    """Print a line for each seed, and the median."""
    write_photos(folder / "data_cars", count)
    content = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"model": model, "img_size": SIZE}
    content["train"]["epochs"] = EPOCHS
    if model != "tf_efficientnet_lite0":
        content["backbone"]["source"] = "random"  # no package has its weights
    pairs = []
    for seed in range(seeds):
        content["train"]["seed"] = seed
        (folder / "params.yaml").write_text(yaml.safe_dump(content))
        params = load(Params, folder / "params.yaml")
        if seed == 0:
            stage("backbone", folder)
            stage("split_check", folder)
            batch = params.train.batch_size
            images = EPOCHS * -(-len(held_out(folder, params)[0]) // batch) * batch
            print(f"\n{model} at {SIZE}, {EPOCHS} epochs, {images} images in all, start to checkpoint")
            print(HEAD)
        own, other = ours(folder, params), plain(folder, params)
        pairs.append((own, other))
        print(
            f"| {seed} | {own['seconds']:.1f} | {other['seconds']:.1f} | {other['seconds'] / own['seconds']:.2f} "
            f"| {own['auc']:.4f} | {other['auc']:.4f} "
            f"| {own['peak_mb']:.0f} | {other['peak_mb']:.0f} + 2 x {other['worker_peak_mb']:.0f} |",
            flush=True,
        )
    ratio = statistics.median(other["seconds"] / own["seconds"] for own, other in pairs)
    own_auc, other_auc = (statistics.mean(run["auc"] for run in runs) for runs in zip(*pairs, strict=True))
    asked = f" (>= {FIGURES[model]})" if model in FIGURES else ""
    print(f"median {ratio:.2f} times as fast{asked}; mean AUC {own_auc:.4f} against {other_auc:.4f} (no worse)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(FIGURES))
    parser.add_argument("--photos", nargs="+", type=int, default=[480, 240], help="train photos for each network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="48 photos, one seed: does it run?")
    args = parser.parse_args()
    if not (ROOT / "data_cars").is_dir():
        sys.exit("there are no sample photos: `make data` first")
    for model, count in zip(args.models, [48] * len(args.models) if args.quick else args.photos, strict=True):
        with tempfile.TemporaryDirectory() as name:
            compare(Path(name), model, count, 1 if args.quick else args.seeds)


if __name__ == "__main__":
    main()
