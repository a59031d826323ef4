"""Training beside what limits it, and beside a plain recipe.

    python benchmarks/training.py [--models tf_efficientnet_lite0 resnet50] [--photos 480 240] [--seeds 3] [--quick]

The photos are the drawn sample ones, blown up to 1600 x 1200 JPEGs of a phone's size, so the AUCs say nothing of real
photos. Part 1: the train stage's own steps on photos, by epoch, beside the same steps on one batch that is always at
hand, and beside steps on ready tensors without augmentation; they take turns. Part 2: the same steps with one choice
undone at a time, each in a process of its own, in turn. Part 3: whole runs of the train stage and of plain_recipe.py,
from start to best checkpoint, in turn, several seeds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402

from serving.photo.cores import usable_cores  # noqa: E402
from stages.common.base.params import load  # noqa: E402
from stages.common.base.photos import CLEAN, Origin, Photo, list_photos  # noqa: E402
from stages.common.model import Checkpoint, Normalise  # noqa: E402
from stages.common.pixels.photo_set import PhotoSet  # noqa: E402
from stages.common.scoring.loader import loader  # noqa: E402
from stages.common.scoring.score import score  # noqa: E402
from stages.train import distributed  # noqa: E402
from stages.train.devices import choose_algorithms  # noqa: E402
from stages.train.params import Params  # noqa: E402
from stages.train.sampling import Batches, Positioned, hold_out  # noqa: E402
from stages.train.trainer import Trainer, loss  # noqa: E402

SIZE, EPOCHS, ROUNDS = 224, 5, 3
UNDO_BATCHES = 4  # of an epoch, for each choice that is undone
CHOICES = (
    "as it is", "freed memory given back", "bf16 and float32 exchanged", "channels first", "optimiser not fused",
    "decoding at each use",
)  # fmt: skip
SHARES = {"train": 1.0, "val": 0.1, "test": 0.5}  # photos of each split, for one of train
T = TypeVar("T")
FIGURES = {"tf_efficientnet_lite0": 1.4, "resnet50": 2.0}  # images/s against the plain recipe


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
    grain = np.random.default_rng(int(source.stem)).normal(0, 7, (1200, 1600, 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(large) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    target.write_bytes(buffer.getvalue())
    return len(buffer.getvalue())


def stage(name: str, folder: Path) -> float:
    """Run a stage in a folder; its peak memory in MiB."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "DIRTYCAR_SCRATCH": str(folder / "scratch"),
    }
    with (folder / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", f"stages.{name}"], cwd=folder, env=env, stdout=log, stderr=log)
        _, status, usage = os.wait4(run.pid, 0)
    if status:
        sys.exit((folder / "log").read_text())
    return usage.ru_maxrss / 1024


def set_up(folder: Path, model: str) -> None:
    """params.yaml for a network, its backbone."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"model": model, "img_size": SIZE}
    params["train"]["epochs"] = EPOCHS
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    stage("backbone", folder)


def alone(measure: Callable[..., T], *values: object) -> T:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *values).result()


def held_out(params: Params, seed: int) -> tuple[list[Photo], list[Photo]]:
    """The train photos of the current folder as the train stage divides them."""
    photos = list_photos(Path(params.data.root), "train")
    return hold_out(photos, [photo.name for photo in photos], params.train.holdout, seed)


class Ready(Trainer):
    """Steps on ready tensors: what is left when nothing has to be read, moved or augmented."""

    def loss(self, images: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
        if not hasattr(self, "inputs"):
            self.inputs = self.normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            outputs = self.forward(self.inputs)
        return loss(outputs.float(), labels, self.weights, self.params.train)


def limits() -> dict[str, float]:
    """Part 1, in the current folder: images/s by epoch, of steps on one batch and on ready tensors."""
    params = load(Params)
    choose_algorithms(params.train, gpu=torch.cuda.is_available())
    batch = params.train.batch_size
    with distributed.process_group() as ranks:
        start = time.perf_counter()
        fit, _ = held_out(params, params.train.seed)
        photos = Positioned(params.data, fit, params.img_size)
        decoding = time.perf_counter() - start
        batches = Batches(photos.labels, [Origin(photo.name) for photo in photos.photos], params.train, 0, 1)
        loaded = loader(photos, batches, ranks.device, params.runtime.num_workers)
        trainer, ready = (kind(params, photos.labels, 10_000, ranks) for kind in (Trainer, Ready))
        fixed = next(iter(loaded))
        for each in (trainer, ready):
            each.step(*fixed, 0, 0)  # sets up its kernels

        def epoch() -> tuple[float, float]:
            """Seconds in all, and of waiting for photos."""
            waited, start = 0.0, time.perf_counter()
            last = start
            for step, data in enumerate(loaded):
                waited += time.perf_counter() - last
                trainer.step(*data, 0, step)
                last = time.perf_counter()
            return time.perf_counter() - start, waited

        def steps(each: Trainer) -> float:
            start = time.perf_counter()
            for step in range(len(batches)):
                each.step(*fixed, 0, step)
            return time.perf_counter() - start

        images = len(batches) * batch
        first = decoding + epoch()[0]
        rounds = [(*epoch(), steps(trainer), steps(ready)) for _ in range(ROUNDS)]
    later, waiting, synthetic, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {
        "first": images / first, "later": images / later, "waiting": waiting / later, "synthetic": images / synthetic,
        "ready": images / bare, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def undo(choice: str) -> float:
    """Part 2, in the current folder, in a process of its own: images/s of the train stage without one of its choices.

    `choice` is one of CHOICES.
    """
    params = load(Params)
    if choice == "decoding at each use":
        params = replace(params, data=replace(params.data, cache="none"))
    if choice == "freed memory given back":
        distributed.keep_freed_memory = lambda: None
    choose_algorithms(params.train, gpu=torch.cuda.is_available())
    with distributed.process_group() as ranks:
        fit, _ = held_out(params, params.train.seed)
        photos = Positioned(params.data, fit, params.img_size)
        batches = list(Batches(photos.labels, [Origin(photo.name) for photo in photos.photos], params.train, 0, 1))[
            :UNDO_BATCHES
        ]
        trainer = Trainer(params, photos.labels, 10_000, ranks)
        if choice == "bf16 and float32 exchanged":
            trainer.precision = torch.float32 if trainer.precision is torch.bfloat16 else torch.bfloat16
        if choice == "channels first":
            trainer.model.to(memory_format=torch.contiguous_format)
            trainer.model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        if choice == "optimiser not fused":
            trainer.optimizer = torch.optim.AdamW(trainer.optimizer.param_groups, foreach=False)
            trainer.schedule = LambdaLR(trainer.optimizer, lambda step: 1.0)
        for _ in range(2):  # the first sets up kernels and memory
            start = time.perf_counter()
            for step, data in enumerate(loader(photos, batches, ranks.device, 0)):
                trainer.step(*data, 0, step)
        return len(batches) * params.train.batch_size / (time.perf_counter() - start)


def undone() -> dict[str, float]:
    """Part 2: images/s of each of CHOICES, the median of turns in alternating order."""
    rates: dict[str, list[float]] = {choice: [] for choice in CHOICES}
    for turn in range(ROUNDS):
        for choice in CHOICES[:: -1 if turn % 2 else 1]:
            rates[choice].append(alone(undo, choice))
    return {choice: statistics.median(values) for choice, values in rates.items()}


def ours(folder: Path, seed: int) -> dict[str, float]:
    """A whole run of the train stage, decoding included; AUC on test."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"]["seed"] = seed
    path.write_text(yaml.safe_dump(params))
    shutil.rmtree(folder / "scratch" / "pixels")
    start = time.perf_counter()
    peak = stage("train", folder)
    seconds = time.perf_counter() - start
    checkpoint = Checkpoint.load(folder / "artifacts/best.pt")
    data = replace(load(Params, path).data, root=str(folder / "data_cars"), cache="none")
    photos = PhotoSet(data, list_photos(folder / "data_cars", "test"), SIZE)
    normalise = Normalise(checkpoint.mean, checkpoint.std)
    logits = score(checkpoint.network(), normalise, photos, batch_size=64, num_workers=0)
    return {"seconds": seconds, "auc": float(roc_auc_score(photos.labels == CLEAN, logits)), "peak_mb": peak}


def plain(folder: Path, model: str, seed: int) -> dict[str, float]:
    """A whole run of the plain recipe."""
    train = load(Params, folder / "params.yaml").train
    _, held = held_out(load(Params, folder / "params.yaml"), seed)
    (folder / "held.json").write_text(json.dumps([photo.name for photo in held]))
    values = (
        folder / "data_cars", model, SIZE, train.batch_size, EPOCHS, train.lr, train.weight_decay, seed,
        folder / "artifacts/backbone.safetensors", folder / "held.json",
    )  # fmt: skip
    command = [sys.executable, str(ROOT / "benchmarks/plain_recipe.py"), *map(str, values)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout) | {"whole": time.perf_counter() - start}


def show_limits(model: str, found: dict[str, float]) -> None:
    print(f"\n{model} at {SIZE}, images/s of the train stage; peak memory {found['peak_mb']:.0f} MiB")
    print("| first epoch, decoding | later epochs | waiting for photos | one batch over and over | ready tensors |")
    print("|---|---|---|---|---|")
    print("| {first:.1f} | {later:.1f} | {waiting:.2%} | {synthetic:.1f} | {ready:.1f} |".format(**found))
    print(f"later epochs against one batch over and over: {found['later'] / found['synthetic']:.3f} (>= 0.95)")
    print(f"later epochs against ready tensors, no augmentation: {found['later'] / found['ready']:.3f}")


def show_undone(found: dict[str, float]) -> None:
    print("\n| one choice undone | images/s | times as slow |\n|---|---|---|")
    for name, rate in found.items():
        print(f"| {name} | {rate:.1f} | {found['as it is'] / rate:.2f} |")


def show_runs(model: str, images: int, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    print(f"\n{model} at {SIZE}, {EPOCHS} epochs, {images} images in all, start to checkpoint")
    print("| seed | dirtycar s | plain s | times as fast | AUC dirtycar | AUC plain | MiB dirtycar | MiB plain |")
    print("|---|---|---|---|---|---|---|---|")
    for seed, (own, other) in enumerate(pairs):
        memory = f"{own['peak_mb']:.0f} | {other['peak_mb']:.0f} + 2 x {other['worker_peak_mb']:.0f}"
        print(
            f"| {seed} | {own['seconds']:.1f} | {other['seconds']:.1f} | {other['seconds'] / own['seconds']:.2f} "
            f"| {own['auc']:.4f} | {other['auc']:.4f} | {memory} |"
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
            folder = Path(name)
            write_photos(folder / "data_cars", count)
            set_up(folder, model)
            stage("split_check", folder)
            os.chdir(folder)
            os.environ["DIRTYCAR_SCRATCH"] = str(folder / "scratch")
            show_limits(model, alone(limits))
            show_undone(undone())
            fit, _ = held_out(load(Params), 0)
            batch = load(Params).train.batch_size
            pairs = [
                (ours(folder, seed), plain(folder, model, seed)) for seed in range(1 if args.quick else args.seeds)
            ]
            show_runs(model, EPOCHS * -(-len(fit) // batch) * batch, pairs)
            os.chdir(ROOT)


if __name__ == "__main__":
    main()
