"""`python -m benchmarks.refusals FOLDER [--size 224]`: how many pictures of other things are refused as no car?

`--drawn 600` in place of FOLDER: of so many drawn pictures (samples/not_cars.py), by artifacts/best.onnx as served, in
which they have no part. For the cars, its refusals among the photos of test are counted.

FOLDER/cars/{clean,dirty} and FOLDER/not_cars hold photos; `--group-regex` captures the car from a file's name. Cars are
split at random, half for the gallery, a quarter for the limit, a quarter to test it, several times. The features are
those of the convert stage in fp32 (needs artifacts/reference.safetensors), so no picture of another thing has any part.
"""

import argparse
import csv
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samples.not_cars import draw_not_car
from serving.model.predictor import Predictor
from serving.photo.decode import decode
from stages.common.base.paths import MODEL, PREDICTIONS
from stages.common.bounds import rate_low
from stages.convert.car_check import NEIGHBOURS, Features
from stages.threshold.refusal import choose_limit

DRAWS, BATCH, SEED = 8, 64, 7


def unit_features(paths: list[Path], size: int) -> NDArray[np.float32]:
    """Features of photos, of length 1, `[N, 320]`."""
    network, found = Features(size).eval(), []
    with ThreadPoolExecutor() as pool, torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            photos = pool.map(lambda path: decode(path.read_bytes(), size), paths[start : start + BATCH])
            found.append(network(torch.from_numpy(np.stack(list(photos)))).numpy())
    values = np.concatenate(found)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?")
    what.add_argument("--drawn", type=int, metavar="COUNT")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--group-regex", default="__g([0-9]+)__")
    args = parser.parse_args()
    if args.drawn:
        refuse_drawn(args.drawn)
    else:
        refuse_others(args.folder, args.size, args.group_regex)


def refuse_others(folder: Path, size: int, group_regex: str) -> None:
    """Print the shares refused at two limits."""
    cars, others = (sorted(path for path in (folder / name).rglob("*.*")) for name in ("cars", "not_cars"))
    known, other = unit_features(cars, size), unit_features(others, size)
    group = np.array([found[1] if (found := re.search(group_regex, path.name)) else path.name for path in cars])
    print(f"python -m benchmarks.refusals FOLDER --size {size}: {len(cars)} photos of cars, {len(others)} others")
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
