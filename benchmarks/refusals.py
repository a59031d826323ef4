"""`python -m benchmarks.refusals FOLDER [--size 224] [--int8]`: are pictures of other things refused as no car?

`--cost` in place of FOLDER: what the check of artifacts/network.onnx costs beside a photo's other steps.

`--drawn 600` in place of FOLDER: of so many drawn pictures (samples/not_cars.py), by artifacts/best.onnx as served, in
which they have no part. For the cars, its refusals among the photos of test are counted.

FOLDER/cars/{clean,dirty} and FOLDER/not_cars hold photos; `--group-regex` captures the car from a file's name. Cars are
split at random, half for the gallery, a quarter for the limit, a quarter to test it, several times. The features are
those of the convert stage (needs artifacts/reference.safetensors), in fp32, or in int8 as served, calibrated on photos
of cars: no picture of another thing has any part.
"""

import argparse
import csv
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from benchmarks.inputs import make_photos
from samples.not_cars import draw_not_car
from serving.model.predictor import Predictor
from serving.model.quality import quality
from serving.photo.decode import decode
from stages.common.base.paths import MODEL, NETWORK, PREDICTIONS
from stages.common.bounds import rate_low
from stages.convert.car_check import NEIGHBOURS, Features
from stages.convert.graph import export, only
from stages.convert.precision import to_int8
from stages.threshold.refusal import choose_limit

DRAWS, BATCH, SEED = 8, 64, 7


def pixels(paths: list[Path], size: int) -> NDArray[np.uint8]:
    """Photos, `[N, size, size, 3]`."""
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda path: decode(path.read_bytes(), size), paths)))


def unit_features(groups: Sequence[NDArray[np.uint8]], *, int8: bool) -> list[NDArray[np.float32]]:
    """Features of length 1 of each group's photos, `[N, 320]`; the first group are cars."""
    size = groups[0].shape[1]
    model = export(Features(size).eval(), torch.zeros(2, size, size, 3, dtype=torch.uint8), "image", ["features"])
    if int8:
        model = to_int8(model, list(batches(groups[0][:: len(groups[0]) // 128])))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [np.concatenate([session.run(None, {"image": part})[0] for part in batches(group)]) for group in groups]
    return [values / np.linalg.norm(values, axis=1, keepdims=True) for values in found]


def batches(photos: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """BATCH photos at a time."""
    return (photos[start : start + BATCH] for start in range(0, len(photos), BATCH))


def distances(photos: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 - the mean cosine similarity to the nearest of the gallery, `[N]`."""
    return np.asarray(1 - np.sort(photos @ gallery.T, axis=1)[:, -NEIGHBOURS:].mean(1), np.float64)


def refuse_drawn(count: int) -> None:
    """Print the share of drawn pictures that are refused, by kind, and that of the photos of cars in test."""
    predictor = Predictor(MODEL)
    limit, refused = predictor.threshold.rule.limits.max_distance, defaultdict[str, list[bool]](list)
    for index in range(count):
        kind, photo = draw_not_car(SEED, index)
        (_, distance, *_), *_ = predictor.scores(decode(photo, predictor.image_size)[None])
        refused[kind].append(bool(distance > limit))
    every = [one for found in refused.values() for one in found]
    with (PREDICTIONS / "test.csv").open(newline="") as file:
        cars = [float(row["distance"]) > limit for row in csv.DictReader(file)]
    print(f"python -m benchmarks.refusals --drawn {count}: distances above {limit:.3f}")
    least = float(rate_low(sum(every), count, 0.05))
    print(f"  others refused {np.mean(every):.3f} (at least {least:.3f} with confidence 0.95): ", end="")
    print(", ".join(f"{kind} {np.mean(found):.3f}" for kind, found in refused.items()))
    print(f"  cars of test refused {np.mean(cars):.4f} ({sum(cars)} of {len(cars)} photos)")


def compare_cost(rounds: int = 100, together: int = 4) -> None:
    """Print the CPU time of each step of a verdict on one thread, in turn, the best of the rounds: of one photo in a
    model call, and of as many as a busy service puts into one."""
    model, options = onnx.load(NETWORK), ort.SessionOptions()
    options.intra_op_num_threads = 1
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    with_check, without = (
        ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for graph in (model, only(model, "logit"))
    )
    photos = make_photos(together)
    images = np.stack([decode(photo, size) for photo in photos])
    steps: dict[str, Callable[[], object]] = {
        "decoding": lambda: [decode(photo, size) for photo in photos],
        "brightness and sharpness": lambda: [quality(image) for image in images],
    }
    for count in (1, together):
        batch = {"image": images[:count]}
        steps |= {
            f"network alone, {count}": partial(without.run, None, batch),
            f"network and check, {count}": partial(with_check.run, None, batch),
        }
    best = dict.fromkeys(steps, math.inf)
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - start)
    best = {name: 1000 * seconds / (1 if name.endswith(", 1") else together) for name, seconds in best.items()}
    print(f"python -m benchmarks.refusals --cost: {size} pixels, JPEGs of 1600 x 1200, ms of CPU time a photo")
    for name, milliseconds in best.items():
        print(f"  {name:26} {milliseconds:.2f}")
    for count in (1, together):
        alone, both = (best[f"network {name}, {count}"] for name in ("alone", "and check"))
        verdict = best["decoding"] + best["brightness and sharpness"] + both
        print(f"  the check: {(both - alone) / verdict:.1%} of a verdict with {count} photos in a call")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?")
    what.add_argument("--drawn", type=int, metavar="COUNT")
    what.add_argument("--cost", action="store_true")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--group-regex", default="__g([0-9]+)__")
    args = parser.parse_args()
    if args.cost:
        compare_cost()
    elif args.drawn:
        refuse_drawn(args.drawn)
    else:
        refuse_others(args.folder, args.size, args.group_regex, int8=args.int8)


def refuse_others(folder: Path, size: int, group_regex: str, *, int8: bool) -> None:
    """Print the shares refused at two limits."""
    cars, others = (sorted(path for path in (folder / name).rglob("*.*")) for name in ("cars", "not_cars"))
    known, other = unit_features([pixels(cars, size), pixels(others, size)], int8=int8)
    group = np.array([found[1] if (found := re.search(group_regex, path.name)) else path.name for path in cars])
    mode = " --int8" if int8 else ""
    print(f"python -m benchmarks.refusals FOLDER --size {size}{mode}: {len(cars)} photos of cars, {len(others)} others")
    shares: dict[str, list[tuple[float, float]]] = {"99 % quantile": [], "certified, or the highest": []}
    for seed in range(DRAWS):
        names = np.random.default_rng(seed).permutation(np.unique(group))
        gallery, limit, test = (
            np.isin(group, part) for part in np.split(names, [len(names) // 2, 3 * len(names) // 4])
        )
        on_val, on_test, on_others = (distances(x, known[gallery]) for x in (known[limit], known[test], other))
        certified = choose_limit(on_val, max_refused=0.01, confidence=0.95).max_distance
        for name, at in zip(shares, (np.quantile(on_val, 0.99, method="higher"), certified), strict=True):
            shares[name].append((float((on_others > at).mean()), float((on_test > at).mean())))
    for name, pairs in shares.items():
        refused, lost = np.mean(pairs, axis=0)
        least = min(share for share, _ in pairs)
        print(f"  limit {name:26} others refused {refused:.3f} (least {least:.3f}), cars refused {lost:.4f}")


if __name__ == "__main__":
    main()
