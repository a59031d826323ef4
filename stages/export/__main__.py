"""`python -m stages.export`: the best precision that keeps the verdicts -> artifacts/best.onnx."""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from serving.decision import CLASSES
from serving.image import RESIZE_RULE
from serving.predictor import Metadata, Predictor
from stages.common.data import CLEAN, Photo, list_photos, read_pixels
from stages.common.errors import StageError, run_stage
from stages.common.model import Checkpoint
from stages.common.outcome import outcome, verdicts
from stages.common.params import Data, Positive, Share, load, strict
from stages.common.reports import read_json, sha256, write_bytes, write_json
from stages.eval.calibration import Calibration
from stages.export.graph import describe, to_onnx
from stages.export.precision import to_fp16, to_int8

CHECKPOINT, CALIBRATION = Path("artifacts/best.pt"), Path("artifacts/calibration.json")
THRESHOLD, PREDICTIONS = Path("artifacts/threshold.json"), Path("artifacts/predictions/val.csv")
MODEL, REPORT = Path("artifacts/best.onnx"), Path("reports/export.json")

# What to try, in order; the last is what is left when the gate refuses the others.
CANDIDATES = {"cpu": ("int8", "fp32"), "gpu": ("fp16", "fp32")}

log = logging.getLogger(__name__)


@strict
class ExportParams:
    """The section `export`."""

    target: Literal["cpu", "gpu"]
    precision: Literal["auto", "fp32", "fp16", "int8"]
    calibration_photos: Positive
    max_flip_share: Share
    max_precision_loss: Share
    batch_size: Positive


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
    export: ExportParams


@dataclass(frozen=True)
class Judged:
    """A candidate at the gate: how it differs from torch on the val photos, at the threshold."""

    size_bytes: int
    max_abs_difference: float  # of p_clean
    flips: int  # photos with another verdict
    flip_share: float
    precision_clean: float | None
    precision_loss: float
    passed: bool


def batches(root: Path, photos: list[Photo], size: int, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """The pixels of photos, `[batch_size, S, S, 3]` at a time."""
    for start in range(0, len(photos), batch_size):
        yield np.stack([read_pixels(root, photo, size) for photo in photos[start : start + batch_size]])


def calibration_photos(root: Path, count: int) -> list[Photo]:
    """`count` train photos, as many of either class as there are, evenly spread over the list."""
    photos = list_photos(root, "train")
    classes = [[photo for photo in photos if photo.label == label] for label in range(len(CLASSES))]
    picked = []
    for members in classes:
        take = min(len(members), -(-count // len(classes)))
        picked += [members[i * len(members) // take] for i in range(take)]
    return picked


def judge(predictor: Predictor, size_bytes: int, root: Path, params: ExportParams) -> Judged:
    """Run a candidate over the val photos, as the service would, and compare with what torch said of them."""
    photos = list_photos(root, "val")
    with PREDICTIONS.open(newline="") as file:
        told = {row["path"]: float(row["p_clean"]) for row in csv.DictReader(file)}
    if set(told) != {photo.name for photo in photos}:
        raise StageError(f"{PREDICTIONS} is of other photos than {root}/val; run `dvc repro eval`")
    torch_p = np.array([told[photo.name] for photo in photos])
    images = batches(root, photos, predictor.image_size, params.batch_size)
    p_clean = np.concatenate([predictor.p_clean(batch) for batch in images])
    is_clean = np.array([photo.label == CLEAN for photo in photos])
    rule = predictor.threshold.rule
    before, after = verdicts(rule, torch_p), verdicts(rule, p_clean)
    flips = int((before != after).sum())
    had, has = (outcome(is_clean, verdict)["precision_clean"] for verdict in (before, after))
    # Where nothing is called clean any more there is no precision to lose; the flips count it.
    loss = 0.0 if had is None or has is None else max(0.0, had - has)
    share = flips / len(photos)
    passed = share <= params.max_flip_share and loss <= params.max_precision_loss
    return Judged(size_bytes, float(np.abs(p_clean - torch_p).max()), flips, share, has, loss, passed)


def build(precision: str, fp32: onnx.ModelProto, root: Path, size: int, params: ExportParams) -> onnx.ModelProto:
    """The graph in one precision."""
    if precision == "int8":
        photos = calibration_photos(root, params.calibration_photos)
        return to_int8(fp32, partial(batches, root, photos, size, params.batch_size))
    return to_fp16(fp32) if precision == "fp16" else fp32


def main() -> None:
    """Try the candidates in turn, keep the first that passes the gate."""
    loaded = load(Params)
    params, root = loaded.export, Path(loaded.data.root)
    checkpoint, calibration = Checkpoint.load(CHECKPOINT), Calibration(**read_json(CALIBRATION))
    metadata = Metadata(
        model=checkpoint.model, precision="fp32", image_size=str(checkpoint.img_size), resize=RESIZE_RULE,
        classes=",".join(CLASSES), data_version=checkpoint.data_version, checkpoint_sha256=sha256(CHECKPOINT),
        threshold_sha256=sha256(THRESHOLD),
    )  # fmt: skip
    wanted = CANDIDATES[params.target] if params.precision == "auto" else (params.precision,)
    fp32 = to_onnx(checkpoint, calibration)
    judged: dict[str, Judged] = {}
    for precision in wanted:
        graph = build(precision, fp32, root, checkpoint.img_size, params)
        content = describe(graph, replace(metadata, precision=precision))
        with tempfile.TemporaryDirectory() as folder:
            candidate = Path(folder, "candidate.onnx")
            candidate.write_bytes(content)
            judged[precision] = judge(Predictor(candidate, THRESHOLD), len(content), root, params)
        if judged[precision].passed:
            break
        log.warning("%s changes too much and is not used: %s", precision, judged[precision])
    else:
        raise StageError(f"no candidate passes the gate: {judged}; see export in params.yaml")
    write_bytes(MODEL, content)
    report = {"precision": precision, "size_bytes": len(content), "sha256": sha256(MODEL)}
    write_json(REPORT, report | {"candidates": {name: asdict(one) for name, one in judged.items()}})
    print(f"{precision}, {len(content) / 1e6:.1f} MB, {judged[precision].flips} verdicts changed against torch")


if __name__ == "__main__":
    run_stage("export", main)
