"""The gate: does a candidate, run as the service would run it, still say what torch said of the val photos?"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.predictor import Predictor
from stages.common.data import CLEAN, usable_photos
from stages.common.errors import StageError
from stages.common.outcome import outcome, verdicts
from stages.common.params import Data
from stages.common.pixels import PhotoSet
from stages.export.params import ExportParams

PREDICTIONS = Path("artifacts/predictions/val.csv")


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


def judge(predictor: Predictor, size_bytes: int, data: Data, params: ExportParams) -> Judged:
    """Run a candidate over the val photos, as the service would, and compare with what torch said of them."""
    photos = usable_photos(Path(data.root), "val")
    with PREDICTIONS.open(newline="") as file:
        told = {row["path"]: float(row["p_clean"]) for row in csv.DictReader(file)}
    if set(told) != {photo.name for photo in photos}:
        raise StageError(f"{PREDICTIONS} is of other photos than {data.root}/val; run `dvc repro eval`")
    torch_p = np.array([told[photo.name] for photo in photos])
    batches = PhotoSet(data, photos, predictor.image_size).batches(params.batch_size)
    p_clean = np.concatenate([predictor.p_clean(batch) for batch in batches])
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
