"""`python -m stages.convert`: best.pt -> network.onnx, in the fewest bits that keep the ranking of held-out photos.

Judged on photos that train held out, never on val or test: what is chosen here is calibrated, certified and tested
afterwards, like any network.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from serving.inference.model.metadata import Metadata
from serving.inference.model.onnx_check import ModelError
from serving.inference.photo.decode import RESIZE_RULE
from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import json_bytes, read_csv, sha256, write_atomically
from stages.common.base.params import load
from stages.common.base.paths import CHECKPOINT, HOLDOUT, NETWORK, REPORTS
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Photo, train_photos
from stages.common.network.model import Checkpoint, Normalise
from stages.common.network.scoring import pick_device, score
from stages.common.pixels.photo_set import PhotoSet
from stages.convert import candidates
from stages.convert.cam import add_map
from stages.convert.candidates import Candidate, Floats
from stages.convert.car_check import GALLERY, add_distance, add_features
from stages.convert.graph import Logit, only, to_onnx
from stages.convert.params import Params
from stages.convert.precision import ConversionError, to_fp16, to_int8

REPORT = REPORTS / "convert.json"

# What to try, in order: CPUs have kernels for int8, GPUs for fp16.
IN_ORDER = {"cpu": ("int8", "fp32"), "gpu": ("fp16", "fp32")}


def split_held_out(photos: list[Photo]) -> tuple[list[Photo], list[Photo]]:
    """The train photos that train held out, and the others. Raises StageError: HOLDOUT damaged, stale or too small."""
    names = set(read_csv(HOLDOUT, lambda row: row["path"]))
    if unknown := names - {photo.name for photo in photos}:
        raise StageError(f"{HOLDOUT} names {min(unknown)}, which is not among the train photos; run `dvc repro train`")
    held_out = [photo for photo in photos if photo.name in names]
    for label, name in enumerate(CLASSES):
        if not any(photo.label == label for photo in held_out):
            raise StageError(f"{HOLDOUT} has no {name} photo to judge a conversion by; raise train.holdout")
    return held_out, [photo for photo in photos if photo.name not in names]


def calibration_photos(photos: list[Photo], count: int) -> list[Photo]:
    """Up to `count` photos, half of each class, evenly spaced."""
    picked = []
    for label in (DIRTY_LABEL, CLEAN_LABEL):
        members = [photo for photo in photos if photo.label == label]
        take = min(len(members), -(-count // 2))
        picked += [members[i * len(members) // take] for i in range(take)]
    return picked


def checkpoint_scores(checkpoint: Checkpoint, photos: PhotoSet) -> Floats:
    """The checkpoint's own logits, in torch, `[N]`."""
    device = pick_device()
    network, normalise = checkpoint.network().to(device), Normalise(checkpoint.mean, checkpoint.std).to(device)
    return score(network, normalise, photos, num_workers=0)


def build(precision: str, fp32: onnx.ModelProto, calibration: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The network in one precision; `calibration` are batches `[N, S, S, 3]`. Raises ConversionError."""
    if precision == "int8":
        return to_int8(fp32, calibration)
    return to_fp16(fp32) if precision == "fp16" else fp32


def contents(model: onnx.ModelProto, metadata: Metadata) -> bytes:
    """The file: the graph with its metadata."""
    described = onnx.ModelProto()
    described.CopyFrom(model)
    onnx.helper.set_model_props(described, metadata.properties())
    content: bytes = described.SerializeToString(deterministic=True)
    return content


class Trial:
    """What all candidates are made of and judged by."""

    def __init__(self, checkpoint: Checkpoint, params: Params) -> None:
        """Raises StageError, also for a network that ONNX cannot express."""
        held_out, others = split_held_out(list(train_photos()))
        chosen = calibration_photos(others, params.convert.calibration_photos)
        size = checkpoint.img_size
        self.calibration = list(PhotoSet(params.data, chosen, size).batches())
        self.photos = PhotoSet(params.data, held_out, size)
        self.gallery = PhotoSet(params.data, calibration_photos(others, GALLERY), size)
        self.is_clean = self.photos.labels == CLEAN_LABEL
        self.reference = checkpoint_scores(checkpoint, self.photos)
        logit = Logit(checkpoint)
        check = params.convert.car_check
        network = add_features(logit, checkpoint.model, size, self.gallery.batches()) if check else logit
        self.params, self.fp32 = params.convert, to_onnx(network, checkpoint)
        self.metadata = Metadata(
            model=checkpoint.model, precision="fp32", target=params.convert.target, image_size=str(size),
            resize=RESIZE_RULE, classes=",".join(CLASSES), data_version=checkpoint.data_version,
            checkpoint_sha256=sha256(CHECKPOINT),
        )  # fmt: skip

    def candidate(self, precision: str) -> Candidate:
        """Make and judge a candidate. Raises ConversionError or ModelError where ONNX Runtime cannot make or load it;
        whatever else goes wrong is no reason to serve another precision."""
        graph = build(precision, self.fp32, self.calibration)
        metadata = replace(self.metadata, precision=precision)
        network = candidates.load(contents(only(graph, "logit"), metadata))
        answers = self.photos.outputs(network.run)
        judged = candidates.judge(self.is_clean, self.reference, answers, self.params.max_auc_loss)
        return Candidate(graph, network, judged)

    def content(self, chosen: Candidate) -> bytes:
        """The candidate's file, with a distance if `convert.car_check` wants one and a map where there can be one."""
        model = add_map(chosen.graph, self.fp32)
        if self.params.car_check:
            model = add_distance(model, self.gallery.batches())
        return contents(model, chosen.network.metadata)


def try_all(trial: Trial, wanted: Sequence[str]) -> dict[str, Candidate | str]:
    """Every wanted candidate, or why it could not be made. fp32 always, since the others are read beside it."""
    tried: dict[str, Candidate | str] = {}
    for precision in dict.fromkeys((*wanted, "fp32")):
        try:
            tried[precision] = trial.candidate(precision)
        except (ConversionError, ModelError) as error:
            tried[precision] = str(error)
    return tried


def describe(trial: Trial, tried: dict[str, Candidate | str], taken: str | None) -> dict[str, Any]:
    """The report: all candidates side by side. Their speed is this machine's, at this moment."""
    loaded = {name: found for name, found in tried.items() if isinstance(found, Candidate)}
    pixels = trial.photos.pixels(range(min(8, len(trial.photos))))
    rates = candidates.photos_per_second({name: found.network for name, found in loaded.items()}, pixels)
    rows = {
        name: {"taken": name == taken}
        | ({"passed": False, "why": found} if isinstance(found, str) else found.row() | {"photos_per_s": rates[name]})
        for name, found in tried.items()
    }
    return {
        "precision": taken,
        "held_out": {"clean": int(trial.is_clean.sum()), "dirty": int((~trial.is_clean).sum())},
        "checkpoint_roc_auc": float(roc_auc_score(trial.is_clean, trial.reference)),
        "candidates": rows,
    }


def main() -> None:
    """Write the first candidate that keeps the ranking."""
    params = load(Params)
    trial = Trial(Checkpoint.load(CHECKPOINT), params)
    wanted = IN_ORDER[params.convert.target] if params.convert.precision == "auto" else (params.convert.precision,)
    tried = try_all(trial, wanted)
    loaded = {name: found for name in wanted if isinstance(found := tried[name], Candidate)}
    taken = next((name for name, found in loaded.items() if found.judged.passed), None)
    report = describe(trial, tried, taken)
    for name, row in report["candidates"].items():
        print(f"{'->' if row['taken'] else '  '} {name}: {row.get('photos_per_s', 0):.0f} photos/s, {row['why']}")
    if taken is None:
        raise StageError(f"{' and '.join(wanted)} did not pass; see `convert` in params.yaml")
    write_atomically({NETWORK: trial.content(loaded[taken]), REPORT: json_bytes(report)})


if __name__ == "__main__":
    run_stage("convert", main)
