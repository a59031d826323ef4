"""What a CUDA card makes of training and inference. Begins no compilation after BUDGET seconds; skipped without a GPU.

    python -m benchmarks.gpu [--batch 96] [--size 256]

For resnet50, efficientnet_b0 and convnext_tiny with random weights (speed does not depend on them), in bfloat16: the
train stage's own steps on photos that come through its cache and loader, beside the same steps on one batch that is
always at hand, with and without torch.compile and deterministic algorithms; inference, and what share of the card's
measured matrix throughput it reaches. Photos are noise: nothing here says how well a network does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from stages.backbone.fit import without_head
from stages.common.base.params import Data, load
from stages.common.base.paths import BACKBONE
from stages.common.base.photos import Origin, list_photos
from stages.common.network.model import Normalise, create
from stages.common.network.scoring import loader
from stages.train.devices import choose_algorithms
from stages.train.distributed import process_group
from stages.train.params import Params
from stages.train.sampling import Batches, Positioned
from stages.train.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("resnet50", "efficientnet_b0", "convnext_tiny")
BUDGET = 400.0  # seconds after which no further compilation is begun

START = """
import os, time
start = time.perf_counter()
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
gpu = torch.cuda.is_available()
device = torch.device("cuda", 0) if gpu else torch.device("cpu")
loaded = time.perf_counter()
dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
model = DistributedDataParallel(torch.nn.Linear(8, 8).to(device))
model(torch.zeros(2, 8, device=device)).sum().backward()
dist.destroy_process_group()
print("DDP", loaded - start, time.perf_counter() - loaded, flush=True)
"""


def seconds_of(work: Callable[[], object], seconds: float) -> float:
    """Seconds of one call, the median of blocks that take `seconds` together, warmed up and waited for."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def matrix_throughput(device: torch.device, size: int, seconds: float) -> float:
    """bfloat16 FLOP/s of a square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, seconds)


def write_photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for label in ("clean", "dirty"):
        (folder / "train" / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
            photo = Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC)
            photo.save(folder / "train" / label / f"{number:05}.jpg", quality=85)


def train_rates(params: Params, seconds: float) -> dict[str, float]:
    """Images/s of the train stage's steps on photos and on one batch, seconds to the first step, peak memory."""
    gpu = torch.cuda.is_available()
    choose_algorithms(params.train, gpu=gpu)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with process_group() as ranks:
        photos = Positioned(params.data, list_photos(Path(params.data.root), "train"), params.img_size)
        batches = Batches(photos.labels, [Origin(photo.name) for photo in photos.photos], params.train, 0, 1)
        loaded = loader(photos, batches, ranks.device, params.runtime.num_workers)
        trainer = Trainer(params, photos.labels, 100_000, ranks)
        fixed = next(iter(loaded))
        start = time.perf_counter()
        trainer.step(*fixed, 0, 0)
        if gpu:
            torch.cuda.synchronize()
        first = time.perf_counter() - start

        def epoch() -> None:
            for step, batch in enumerate(loaded):
                trainer.step(*batch, 0, step)

        real = seconds_of(epoch, seconds) / len(batches)
        synthetic = seconds_of(lambda: trainer.step(*fixed, 0, 0), seconds)
        peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0
    size = params.train.batch_size
    return {
        "photos_per_s": size / real, "one_batch_per_s": size / synthetic, "share": synthetic / real,
        "first_step_s": first, "peak_gib": peak,
    }  # fmt: skip


def inference_rate(
    name: str, size: int, batch: int, device: torch.device, seconds: float, peak: float
) -> dict[str, float]:
    """Images/s from uint8 pixels on the device to outputs in bfloat16, and the share of the matrix throughput."""
    model = create(name).to(device, memory_format=torch.channels_last).eval()
    normalise = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).to(device)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=device)

    def run() -> torch.Tensor:
        return model(normalise(images).contiguous(memory_format=torch.channels_last))

    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        with FlopCounterMode(display=False) as counter:
            run()
        took = seconds_of(run, seconds)
    flops = counter.get_total_flops()
    return {"images_per_s": batch / took, "gflop_per_image": flops / batch / 1e9, "share": flops / took / peak}


def ddp_start() -> list[float]:
    """Seconds to import torch, and to start NCCL and DDP with one process, under torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "start.py")
        script.write_text(START)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(script)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    line = next(line for line in done.stdout.splitlines() if line.startswith("DDP"))
    return [float(word) for word in line.split()[1:]]


def measure(args: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, Any]:
    """All of it; training has its files in `folder`, the current one."""
    begun = time.monotonic()
    base = load(Params, ROOT / "params.yaml")
    write_photos(folder / "photos", args.batch * args.steps // 2)
    peak = matrix_throughput(device, args.matrix, args.seconds)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, Any] = {
        "device": name, "torch": torch.__version__, "size": args.size, "batch": args.batch,
        "matrix_tflops_bf16": peak / 1e12, "ddp_import_s_start_s": ddp_start(), "train": {}, "inference": {},
    }  # fmt: skip
    for model in args.models:
        found["inference"][model] = inference_rate(model, args.size, args.batch, device, args.seconds, peak)
        print(f"{time.monotonic() - begun:4.0f} s  {model} inference", file=sys.stderr, flush=True)
    variants = {"deterministic": (True, False), "fastest": (False, False), "compiled": (False, True)}
    for variant, (deterministic, compile_) in variants.items():
        for model in args.models:
            if compile_ and (args.no_compile or time.monotonic() - begun > BUDGET):
                found["train"][f"{model} {variant}"] = None
                continue
            BACKBONE.parent.mkdir(exist_ok=True)
            network = create(model)
            save_file(without_head(network.state_dict(), network, model), BACKBONE)
            train = replace(
                base.train, batch_size=args.batch, accumulate=1, amp="bf16", compile=compile_,
                deterministic=deterministic,
            )  # fmt: skip
            data = Data(str(folder / "photos"), "disk", 10.0, None)
            runtime = replace(base.runtime, num_workers=args.workers)
            params = replace(base, model=model, img_size=args.size, data=data, train=train, runtime=runtime)
            found["train"][f"{model} {variant}"] = train_rates(params, args.seconds)
            torch.compiler.reset()
            print(f"{time.monotonic() - begun:4.0f} s  {model} {variant}", file=sys.stderr, flush=True)
    return found


def show(found: dict[str, Any]) -> None:
    print(f"{found['device']}, torch {found['torch']}, {found['size']} x {found['size']}, batch {found['batch']}, bf16")
    print(f"matrix product: {found['matrix_tflops_bf16']:.1f} TFLOP/s")
    print("DDP with one process: import {:.1f} s, start {:.1f} s\n".format(*found["ddp_import_s_start_s"]))
    print("| training | photos/s | one batch over and over/s | share | first step s | peak GiB |")
    print("|---|---|---|---|---|---|")
    for name, row in found["train"].items():
        values = "not measured | | | |" if row is None else (
            f"{row['photos_per_s']:.1f} | {row['one_batch_per_s']:.1f} | {row['share']:.3f} "
            f"| {row['first_step_s']:.1f} | {row['peak_gib']:.2f} |"
        )  # fmt: skip
        print(f"| {name} | {values}")
    print("\n| inference | images/s | GFLOP an image | share of the matrix throughput |")
    print("|---|---|---|---|")
    for name, row in found["inference"].items():
        print(f"| {name} | {row['images_per_s']:.1f} | {row['gflop_per_image']:.2f} | {row['share']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20, help="batches in an epoch of photos")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each figure")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="try the code out without a GPU; the figures mean nothing")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.cpu:
        print("skipped: torch finds no CUDA device here")
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with tempfile.TemporaryDirectory() as name:
        os.environ["DIRTYCAR_SCRATCH"] = str(Path(name, "scratch"))
        os.chdir(name)
        found = measure(args, torch.device("cpu" if args.cpu else "cuda"), Path(name))
        os.chdir(ROOT)
    show(found)


if __name__ == "__main__":
    main()
