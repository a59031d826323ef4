"""`python -m stages.eval`: best.pt and the val and test photos -> predictions, calibration, metrics, plots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit

from serving.decision import CLASSES
from stages.common.data import CLEAN, Photo, PhotoSet, list_photos
from stages.common.errors import run_stage
from stages.common.model import Checkpoint, Normalise, pick_device, score
from stages.common.params import Data, NonNegative, Positive, load, strict
from stages.common.reports import write_csv, write_json
from stages.eval.calibration import Calibration, cross_fitted, fit
from stages.eval.metrics import confusion, point_metrics, with_intervals
from stages.eval.plots import write_plots

CHECKPOINT, CALIBRATION = Path("artifacts/best.pt"), Path("artifacts/calibration.json")
PREDICTIONS, REPORT, PLOTS = Path("artifacts/predictions"), Path("reports/eval.json"), Path("reports/eval")
FOLDS = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@strict
class EvalParams:
    """The section `eval`."""

    batch_size: Positive
    num_workers: NonNegative
    bootstrap: Annotated[int, Field(ge=20)]
    bins: Annotated[int, Field(ge=2)]
    seed: NonNegative


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
    eval: EvalParams


def score_split(checkpoint: Checkpoint, root: Path, photos: list[Photo], params: EvalParams, title: str) -> Floats:
    """The logit of every photo, `[N]`."""
    device = pick_device()
    network, normalise = checkpoint.network().to(device), Normalise(checkpoint.mean, checkpoint.std).to(device)
    data = PhotoSet(root, photos, checkpoint.img_size)
    workers = params.num_workers
    return score(network, normalise, data, batch_size=params.batch_size, num_workers=workers, title=title)


def write_predictions(path: Path, photos: list[Photo], logit: Floats, p_clean: Floats) -> None:
    """One row per photo, every digit kept: the threshold is chosen from this file alone."""
    rows = zip(photos, logit.tolist(), p_clean.tolist(), strict=True)
    write_csv(path, ["path", "label", "logit", "p_clean"], ([x.name, CLASSES[x.label], z, p] for x, z, p in rows))


def report_split(is_clean: Bools, honest: Floats, uncalibrated: Floats, params: EvalParams) -> dict[str, Any]:
    """Metrics of one split. `honest`: p_clean from a calibration that has not seen the photo."""
    metrics = with_intervals(is_clean, honest, bins=params.bins, draws=params.bootstrap, seed=params.seed)
    before = point_metrics(is_clean, uncalibrated, params.bins)
    return {
        **metrics,
        "confusion_at_half": confusion(is_clean, honest >= 0.5),
        "before_calibration": {"brier": before["brier"], "ece": before["ece"]},
    }


def main() -> None:
    """Score, calibrate on val, report. On val the report's calibration is cross-fitted, so as not to flatter it."""
    params = load(Params)
    root, checkpoint = Path(params.data.root), Checkpoint.load(CHECKPOINT)
    photos = {split: list_photos(root, split) for split in ("val", "test")}
    logit = {split: score_split(checkpoint, root, found, params.eval, split) for split, found in photos.items()}
    is_clean = {split: np.array([photo.label == CLEAN for photo in found]) for split, found in photos.items()}
    calibration: Calibration = fit(logit["val"], is_clean["val"])
    for split in photos:
        write_predictions(PREDICTIONS / f"{split}.csv", photos[split], logit[split], calibration.p_clean(logit[split]))
    honest = {
        "val": cross_fitted(logit["val"], is_clean["val"], folds=FOLDS, seed=params.eval.seed),
        "test": calibration.p_clean(logit["test"]),
    }
    report = {s: report_split(is_clean[s], honest[s], expit(logit[s]), params.eval) for s in photos}
    write_plots(PLOTS, is_clean["test"], logit["test"], honest["test"], expit(logit["test"]), params.eval.bins)
    write_json(CALIBRATION, asdict(calibration), digits=None)
    write_json(REPORT, report)
    auc = report["test"]["roc_auc"]
    print(f"test ROC-AUC {auc['value']:.4f} (95 % interval {auc['low']:.4f} to {auc['high']:.4f})")


if __name__ == "__main__":
    run_stage("eval", main)
