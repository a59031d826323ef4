"""What the speed comparisons share: photos as phones take them, models as the export stage makes them, a stopwatch."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from serving.cores import usable_cores
from serving.image import RESIZE_RULE, decode
from serving.predictor import Metadata


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


def make_models(folder: Path, photos: Sequence[bytes], name: str, size: int) -> None:
    """Write fp32/ and int8/ of a network with random weights, each a best.onnx with its threshold.json."""
    from stages.common.model import Checkpoint, create
    from stages.eval.calibration import Calibration
    from stages.export.graph import describe, to_onnx
    from stages.export.precision import to_int8

    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    weights = create(name).state_dict()
    fp32 = to_onnx(Checkpoint(name, size, *imagenet, "none", 0, weights), Calibration(1.0, 0.0))
    int8 = to_int8(fp32, iter(decode(photo, size)[None] for photo in photos[:8]))
    threshold = json.dumps({"T_clean": 0.9, "T_low": None, "certified": True})
    sha256 = hashlib.sha256(threshold.encode()).hexdigest()
    for precision, model in (("fp32", fp32), ("int8", int8)):
        metadata = Metadata(name, precision, str(size), RESIZE_RULE, "dirty,clean", "none", "none", sha256)
        (folder / precision).mkdir(parents=True)
        (folder / precision / "threshold.json").write_text(threshold)
        (folder / precision / "best.onnx").write_bytes(describe(model, metadata))


class Alone(NamedTuple):
    """Calls a second, and CPU seconds a call."""

    rate: float
    cpu: float


def alone(work: Callable[[int], object], seconds: float) -> Alone:
    """What `work(i)` does and takes with one thread for each usable core."""
    counts = [0] * usable_cores()
    stop = time.perf_counter() + seconds

    def run(lane: int) -> None:
        while time.perf_counter() < stop:
            work(lane + counts[lane])
            counts[lane] += 1

    started, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=run, args=(lane,)) for lane in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Alone(sum(counts) / (time.perf_counter() - started), (time.process_time() - cpu) / sum(counts))
