"""`python -m benchmarks.refusals FOLDER [--size 128] [--epochs 4]`: are pictures of other things refused as no car?

FOLDER/cars/{clean,dirty} and FOLDER/not_cars hold photos; `--group-regex` captures the car from a file's name. The
stages run on the cars, up to the predictions, a third of the cars left out in turn (benchmarks/real_photos.py). Photos
that the network was not trained on are split at random by car, several times: one half for the limit, one to test it.
No picture of another thing has any part in network or limit.

`--drawn 600` in place of FOLDER: of so many drawn pictures (samples/not_cars.py), by artifacts/best.onnx as served, in
which they have no part. For the cars, its refusals among the photos of test are counted.

`--cost` in place of FOLDER: what the check of artifacts/network.onnx costs beside a photo's other steps.
"""

import argparse
import csv
import math
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.inputs import make_photos
from benchmarks.real_photos import LENIENT, STAGES, captured, command, folds, lay_out, set_params
from samples.not_cars import draw_not_car
from serving.inference.model.predictor import Network, Predictor
from serving.inference.model.quality import quality
from serving.inference.photo.decode import decode
from stages.common.base.paths import MODEL, NETWORK, PREDICTIONS
from stages.common.bounds import rate_low
from stages.convert.graph import only
from stages.threshold.refusal import choose_limit

DRAWS, SEED = 8, 7


def other_distances(network: Network, paths: list[Path]) -> NDArray[np.float64]:
    """How far photos are from those of cars, `[N]`."""
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: decode(path.read_bytes(), network.image_size), paths))
    return np.concatenate([network.run_both(image[None])[:, 1] for image in images]).astype(np.float64)


def car_distances(folder: Path) -> dict[str, float]:
    """The same of the photos that the stages in a folder did not train on, as eval has them."""
    found: dict[str, float] = {}
    for split in ("val", "test"):
        with (folder / PREDICTIONS / f"{split}.csv").open(newline="") as file:
            found |= {row["path"]: float(row["distance"]) for row in csv.DictReader(file)}
    return found


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
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--source-regex", default="([a-d])__")
    parser.add_argument("--group-regex", default="__g([0-9]+)__")
    args = parser.parse_args()
    if args.cost:
        compare_cost()
    elif args.drawn:
        refuse_drawn(args.drawn)
    else:
        refuse_others(args.folder, args.size, args.epochs, args.source_regex, args.group_regex)


def refuse_others(source: Path, size: int, epochs: int, source_regex: str, group_regex: str) -> None:
    """Print the shares refused at two limits."""
    others = sorted(path for path in (source / "not_cars").rglob("*.*"))
    shares: dict[str, list[tuple[float, float]]] = {"99 % quantile": [], "certified, or the highest": []}
    changes = {"img_size": size, "train.epochs": epochs, "data.car_regex": group_regex, **LENIENT}
    for fold in folds(source / "cars", source_regex, group_regex):
        if not fold.name.startswith("fold"):
            continue
        with TemporaryDirectory() as scratch:
            folder = Path(scratch, "run")
            lay_out(fold, source / "cars", folder / "data_cars")
            set_params(folder, changes | {"split_check.source_regex": source_regex})
            for stage in STAGES[: STAGES.index("eval") + 1]:
                command(folder, "-m", f"stages.{stage}")
            on_others, cars = other_distances(Network(folder / NETWORK), others), car_distances(folder)
        groups = np.array([captured(source_regex, path) + captured(group_regex, path) for path in cars])
        on_cars = np.array(list(cars.values()))
        for seed in range(DRAWS):
            names = np.random.default_rng(seed).permutation(np.unique(groups))
            chosen = np.isin(groups, names[: len(names) // 2])
            certified = choose_limit(on_cars[chosen], max_refused=0.01, confidence=0.95).max_distance
            for name, at in zip(shares, (np.quantile(on_cars[chosen], 0.99, method="higher"), certified), strict=True):
                shares[name].append((float((on_others > at).mean()), float((on_cars[~chosen] > at).mean())))
        print(f"{fold.name}: {len(on_cars)} photos of cars not trained on, {len(on_others)} others", flush=True)
    print(f"python -m benchmarks.refusals FOLDER --size {size} --epochs {epochs}")
    for name, pairs in shares.items():
        refused, lost = np.mean(pairs, axis=0)
        least = min(share for share, _ in pairs)
        print(f"  limit {name:26} others refused {refused:.3f} (least {least:.3f}), cars refused {lost:.4f}")


if __name__ == "__main__":
    main()
