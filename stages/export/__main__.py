"""`python -m stages.export`: the best precision that keeps the verdicts -> artifacts/best.onnx."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from serving.decision import CLASSES
from serving.image import RESIZE_RULE
from serving.onnx_file import ModelError
from serving.predictor import Metadata, Predictor
from stages.common.data import Photo, usable_photos
from stages.common.errors import StageError, run_stage
from stages.common.model import Checkpoint
from stages.common.params import Data, load
from stages.common.pixels import PhotoSet
from stages.common.reports import json_bytes, read_json, sha256, write_all
from stages.eval.calibration import Calibration
from stages.export.gate import Judged, judge
from stages.export.graph import describe, to_onnx
from stages.export.params import ExportParams, Params
from stages.export.precision import to_fp16, to_int8

CHECKPOINT, CALIBRATION = Path("artifacts/best.pt"), Path("artifacts/calibration.json")
THRESHOLD = Path("artifacts/threshold.json")
MODEL, REPORT = Path("artifacts/best.onnx"), Path("reports/export.json")

# What to try, in order; the last is what is left when the gate refuses the others.
CANDIDATES = {"cpu": ("int8", "fp32"), "gpu": ("fp16", "fp32")}
# Where to try it: as it will be served, whatever this machine has; without a GPU, what is meant for one runs on a CPU.
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "gpu": None}

log = logging.getLogger(__name__)


def calibration_photos(root: Path, count: int) -> list[Photo]:
    """`count` train photos, as many of either class as there are, evenly spread over the list."""
    photos = usable_photos(root, "train")
    classes = [[photo for photo in photos if photo.label == label] for label in range(len(CLASSES))]
    picked = []
    for members in classes:
        take = min(len(members), -(-count // len(classes)))
        picked += [members[i * len(members) // take] for i in range(take)]
    return picked


def build(precision: str, fp32: onnx.ModelProto, data: Data, size: int, params: ExportParams) -> onnx.ModelProto:
    """The graph in one precision. Raises StageError where ONNX Runtime's tools cannot make it."""
    try:
        if precision == "int8":
            photos = calibration_photos(Path(data.root), params.calibration_photos)
            return to_int8(fp32, PhotoSet(data, photos, size).batches(params.batch_size))
        return to_fp16(fp32) if precision == "fp16" else fp32
    except StageError:
        raise
    except Exception as error:  # their exceptions share no base class
        raise StageError(f"{precision} cannot be made of this network: {error}") from error


def try_out(graph: onnx.ModelProto, metadata: Metadata, data: Data, params: ExportParams) -> tuple[bytes, Judged]:
    """A candidate as a file, and how it does at the gate."""
    content = describe(graph, metadata)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.onnx")
        path.write_bytes(content)
        predictor = Predictor(path, THRESHOLD, providers=PROVIDERS[params.target])
        return content, judge(predictor, len(content), data, params)


def first_accepted(
    checkpoint: Checkpoint, calibration: Calibration, data: Data, params: ExportParams
) -> tuple[str, bytes, dict[str, Any]]:
    """The first candidate that passes the gate: its precision, its file, and what to report of each that was tried.

    Raises StageError when none does.
    """
    metadata = Metadata(
        model=checkpoint.model, precision="fp32", image_size=str(checkpoint.img_size), resize=RESIZE_RULE,
        classes=",".join(CLASSES), data_version=checkpoint.data_version, checkpoint_sha256=sha256(CHECKPOINT),
        threshold_sha256=sha256(THRESHOLD),
    )  # fmt: skip
    fp32 = to_onnx(checkpoint, calibration)
    tried: dict[str, Any] = {}
    for precision in CANDIDATES[params.target] if params.precision == "auto" else (params.precision,):
        try:
            graph = build(precision, fp32, data, checkpoint.img_size, params)
            content, judged = try_out(graph, replace(metadata, precision=precision), data, params)
        except (StageError, ModelError) as error:
            tried[precision] = {"passed": False, "error": str(error)}
        else:
            tried[precision] = asdict(judged)
            if judged.passed:
                return precision, content, tried
        log.warning("%s is not used: %s", precision, tried[precision])
    raise StageError(f"no candidate passes the gate: {tried}; see `export` in params.yaml")


def main() -> None:
    """Write the first candidate that keeps the verdicts."""
    params = load(Params)
    checkpoint, calibration = Checkpoint.load(CHECKPOINT), Calibration(**read_json(CALIBRATION))
    precision, content, tried = first_accepted(checkpoint, calibration, params.data, params.export)
    digest = hashlib.sha256(content).hexdigest()
    report = {"precision": precision, "size_bytes": len(content), "sha256": digest, "candidates": tried}
    write_all({MODEL: content, REPORT: json_bytes(report)})
    print(f"{precision}, {len(content) / 1e6:.1f} MB, {tried[precision]['flips']} verdicts changed against torch")


if __name__ == "__main__":
    run_stage("export", main)
