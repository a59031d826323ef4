"""How fast, how large and how right is the model as it is served. Everything runs through serving.inference; no torch.

Times are of this machine at this moment: compare them within one report, not across machines.
"""

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from sklearn.metrics import roc_auc_score

from serving.inference.model.metadata import CARD, Metadata
from serving.inference.model.onnx_check import read_model
from serving.inference.model.predictor import Predictor, default_providers
from serving.inference.photo.cores import processor, usable_cores
from serving.inference.photo.decode import decode
from stages.common.base.errors import run_stage
from stages.common.base.files import json_bytes, write_atomically
from stages.common.base.params import Data, load, strict
from stages.common.base.paths import ARTIFACTS, MODEL, REPORTS
from stages.common.base.photos import CLEAN_LABEL, Photo, usable_photos
from stages.common.pixels.photo_set import PhotoSet
from stages.common.rates import outcome, verdicts

REPORT, MODEL_CARD = REPORTS / "benchmark.json", REPORTS / "model_card.md"
# The report is in git, and so in every clone; this is not, and its absence makes a fresh clone measure its own machine.
MEASURED_HERE = ARTIFACTS / "speed.json"
BATCHES = (1, 8, 32)


@strict
class BenchmarkParams:
    seconds: Annotated[float, Field(gt=0)]


@strict
class Params:
    data: Data
    benchmark: BenchmarkParams


def measure(run: Callable[[], object], images: int, seconds: float) -> dict[str, float]:
    """Call `run`, which handles `images`, for about `seconds` (at least 10 times, after 2 to warm up)."""
    run(), run()
    times: list[float] = []
    while len(times) < 10 or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    p50, p95 = np.quantile(times, [0.5, 0.95])
    return {"p50_ms": float(1000 * p50), "p95_ms": float(1000 * p95), "images_per_s": float(images / p50)}


def speed(predictor: Predictor, contents: list[bytes], seconds: float) -> dict[str, dict[str, float]]:
    """Model alone and photo to verdict, per batch size; photos are decoded with one thread per core."""
    size, rule = predictor.image_size, predictor.threshold.rule
    found: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        photos = cycle(contents)

        def pixels(count: int) -> np.ndarray:
            return np.stack(list(pool.map(decode, islice(photos, count), repeat(size))))

        def judge(count: int) -> None:
            verdicts(rule, predictor.scores(pixels(count))[:, 0])

        for batch in BATCHES:
            images = pixels(batch)
            found[f"model_only_batch_{batch}"] = measure(partial(predictor.p_clean, images), batch, seconds)
            found[f"photo_to_verdict_batch_{batch}"] = measure(partial(judge, batch), batch, seconds)
    return found


def first_verdict(provider: str, content: bytes) -> float:
    """Load the model, judge one photo; peak memory of this process in MB of 10^6 bytes."""
    predictor = Predictor(MODEL, providers=[provider])
    predictor.verdicts(predictor.p_clean(decode(content, predictor.image_size)[None]))
    return peak_memory_mb()


def peak_memory_mb() -> float:
    """The most memory this process held. Not getrusage's: Linux hands that of the parent on to a program it starts."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) * 1024 / 1e6


def cold_start(provider: str, content: bytes) -> dict[str, float]:
    """Seconds from starting a fresh Python to its first verdict, and its peak memory."""
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        memory = pool.submit(first_verdict, provider, content).result()
        return {"cold_start_s": time.perf_counter() - start, "peak_memory_mb": memory}


def as_served(predictor: Predictor, data: Data, photos: list[Photo]) -> dict[str, Any]:
    """The verdicts of the file that is served, on the test photos."""
    pixels = PhotoSet(data, photos, predictor.image_size)
    scores = np.column_stack([pixels.outputs(predictor.scores), pixels.sides()])
    is_clean = np.array([photo.label == CLEAN_LABEL for photo in photos])
    auc = float(roc_auc_score(is_clean, scores[:, 0]))
    return {"roc_auc": auc, **outcome(is_clean, verdicts(predictor.threshold.rule, scores[:, 0], scores[:, 1:]))}


def card(predictor: Predictor, report: dict[str, Any]) -> bytes:
    """The card that the file carries, and the speed measured here."""
    rows = [
        f"| {provider} | {found['photo_to_verdict_batch_1']['p50_ms']:.1f} ms | "
        f"{max(found[f'photo_to_verdict_batch_{size}']['images_per_s'] for size in BATCHES):.0f} |"
        for provider, found in report["speed"].items()
    ]
    on = f"{report['processor']}, {report['threads']} threads"
    head = ["## Speed", "", f"{on}:", "", "| on | a photo to its verdict | at most photos/s |", "|---|---|---|"]
    return "\n".join([predictor.properties[CARD], *head, *rows, ""]).encode()


def main() -> None:
    """Measure on every provider at hand; accuracy on the one the service would choose."""
    params = load(Params)
    root = Path(params.data.root)
    photos = usable_photos(root, "test")
    contents = [(root / photo.name).read_bytes() for photo in photos[:: max(1, len(photos) // 64)]]
    target = Metadata.read(read_model(MODEL).properties, MODEL).target
    machine = {"processor": processor(), "threads": usable_cores()}
    report: dict[str, Any] = {"speed": {}, **machine, "size_mb": MODEL.stat().st_size / 1e6}
    for provider in reversed(default_providers(target)):
        predictor = Predictor(MODEL, providers=[provider])
        found: dict[str, Any] = dict(speed(predictor, contents, params.benchmark.seconds))
        report["speed"][provider] = found | cold_start(provider, contents[0])
    report["as_served"] = as_served(predictor, params.data, photos)
    write_atomically({
        MEASURED_HERE: json_bytes(report["speed"]), REPORT: json_bytes(report), MODEL_CARD: card(predictor, report),
    })  # fmt: skip


if __name__ == "__main__":
    run_stage("benchmark", main)
