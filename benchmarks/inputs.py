"""What the speed comparisons share: photos as phones take them, models as the export stage makes them, a stopwatch."""

import io
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageFilter

from serving.inference.model.metadata import GOLDEN, THRESHOLD, Metadata
from serving.inference.model.predictor import Network
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.decode import RESIZE_RULE, decode
from serving.inference.verdict.rule import parse_threshold


def make_photos(count: int = 24) -> list[bytes]:
    """1600 x 1200 JPEGs of 200 to 600 KB: noise of several grains, about as hard to decode as a street."""
    photos = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8)).resize(
            (1600, 1200), Image.Resampling.BICUBIC
        )
        grain = Image.fromarray(rng.integers(0, 256, (1200, 1600, 3), np.uint8)).filter(ImageFilter.GaussianBlur(1.0))
        photo = Image.blend(coarse, grain, rng.uniform(0.25, 0.6))
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=85)
        photos.append(buffer.getvalue())
    return photos


LOW = {"cpu": "int8", "gpu": "fp16"}  # the lower precision for a target
CHECKED = "{} with car_check"


def make_models(
    folder: Path, photos: Sequence[bytes], name: str, size: int, *, check: bool = False, target: str = "cpu"
) -> None:
    """Write fp32/ and the lower precision's folder of a network with random weights, each a best.onnx, and CHECKED/
    with `convert.car_check`, which needs artifacts/reference.safetensors (`dvc repro backbone`)."""
    from stages.common.calibration import Calibration
    from stages.common.network.model import Checkpoint, create
    from stages.convert.__main__ import contents
    from stages.convert.car_check import add_distance, add_features
    from stages.convert.graph import Logit, to_onnx
    from stages.convert.precision import to_fp16, to_int8
    from stages.export.__main__ import bundle, golden_answers

    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    checkpoint = Checkpoint(name, size, *imagenet, "none", 0, create(name).state_dict())
    logit = Logit(checkpoint)
    fp32 = to_onnx(logit, checkpoint)
    images = [decode(photo, size)[None] for photo in photos[:8]]
    low = LOW[target]
    lower = {"cpu": lambda model: to_int8(model, images), "gpu": to_fp16}[target]
    models = {"fp32": fp32, low: lower(fp32)}
    if check:
        both = to_onnx(add_features(logit, name, size, images), checkpoint)
        gallery = 128 * [np.concatenate(images)]  # 1,024 photos, as the stage takes
        models[CHECKED.format(low)] = add_distance(lower(both), gallery)
    decision = json.dumps({"T_clean": 0.9, "T_low": None, "certified": True})
    calibration = Calibration(1.0, 0.0)
    for precision, model in models.items():
        path = folder / precision / "best.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        network = contents(
            model, Metadata(name, precision[:4], target, str(size), RESIZE_RULE, "dirty,clean", "none", "none")
        )
        path.write_bytes(network)
        golden = golden_answers(Network(path), calibration, parse_threshold(decision.encode(), "decision"))
        texts = {THRESHOLD: decision, GOLDEN: golden.text()}
        path.write_bytes(bundle(onnx.load_from_string(network), calibration, texts))


def alone(work: Callable[[int], object], seconds: float, threads: int | None = None) -> float:
    """Calls of `work(i)` a second with so many threads, by default one for each usable core."""
    counts = [0] * (threads or usable_cores())
    stop = time.perf_counter() + seconds

    def run(lane: int) -> None:
        while time.perf_counter() < stop:
            work(lane + counts[lane])
            counts[lane] += 1

    started = time.perf_counter()
    with ThreadPoolExecutor(len(counts)) as pool:
        list(pool.map(run, range(len(counts))))
    return sum(counts) / (time.perf_counter() - started)
