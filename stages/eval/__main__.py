"""`python -m stages.eval`: network.onnx and the val and test photos -> predictions, calibration, metrics, plots."""

from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from serving.inference.model.predictor import Network
from serving.inference.verdict.rule import CLASSES, Measures
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import csv_bytes, json_bytes, write_atomically
from stages.common.base.params import Data, load
from stages.common.base.paths import CALIBRATION, NETWORK, PREDICTIONS, REPORTS
from stages.common.base.photos import CLEAN_LABEL, Origin, Photo, read_origins, usable_photos
from stages.common.calibration import cross_fitted, fit
from stages.common.pixels.photo_set import PhotoSet
from stages.eval.leaning import Leaning, auc_within_sources, leanings, read_features
from stages.eval.metrics import Bools, Floats, confusion, point_metrics, with_intervals
from stages.eval.params import EvalParams, Params
from stages.eval.plots import plots

REPORT, PLOTS = REPORTS / "eval.json", REPORTS / "eval"
FOLDS = 5


@dataclass(frozen=True)
class Scored:
    """The photos of a split with the origin, the network's logit and the Measures `[N, 4]` of each, `[N]`."""

    photos: list[Photo]
    origins: list[Origin]
    logit: Floats
    measures: Floats

    @property
    def is_clean(self) -> Bools:
        return np.array([photo.label == CLEAN_LABEL for photo in self.photos])

    @property
    def groups(self) -> list[str]:
        return [origin.group for origin in self.origins]


def score_split(network: Network, data: Data, split: str) -> Scored:
    """Run the network over a split, as the service would. Raises StageError for scores that are no numbers."""
    photos = usable_photos(Path(data.root), split)
    origins = read_origins([photo.name for photo in photos])
    pixels = PhotoSet(data, photos, network.image_size)
    scores = pixels.outputs(network.scores, split)
    if wrong := int((~np.isfinite(scores)).any(1).sum()):
        raise StageError(f"{NETWORK} gives NaN or infinity for {wrong} of {len(photos)} {split} photos")
    return Scored(photos, origins, scores[:, 0], np.column_stack([scores[:, 1:], pixels.sides()]))


def predictions(scored: Scored, p_clean: Floats) -> bytes:
    """A CSV of one row per photo, every digit kept: the threshold is chosen from this file alone."""
    scores = np.column_stack([scored.logit, p_clean, scored.measures]).tolist()
    rows = zip(scored.photos, scores, scored.origins, strict=True)
    header = ["path", "label", "logit", "p_clean", *Measures._fields, "group", "source"]
    return csv_bytes(header, ([photo.name, CLASSES[photo.label], *numbers, *origin] for photo, numbers, origin in rows))


def report_split(scored: Scored, p_clean: Floats, params: EvalParams) -> dict[str, Any]:
    """Metrics of one split. `p_clean` is from a calibration that has not seen the photo it is of."""
    is_clean, logit = scored.is_clean, scored.logit
    metrics = with_intervals(
        is_clean, logit, p_clean, scored.groups, bins=params.bins, draws=params.bootstrap, seed=params.seed
    )
    before = point_metrics(is_clean, logit, expit(logit), params.bins)
    return {
        **metrics,
        "confusion_at_half": confusion(is_clean, p_clean >= 0.5),
        "before_calibration": {"brier": before["brier"], "ece": before["ece"]},
    }


def report_shortcuts(scored: Scored, params: EvalParams) -> tuple[list[Leaning], dict[str, float]]:
    """How well trivial features explain the scores within a class, and the AUC within each source."""
    features = read_features([photo.name for photo in scored.photos])
    found = leanings(features, scored.is_clean, scored.logit, scored.groups, draws=params.bootstrap, seed=params.seed)
    sources = np.array([origin.source for origin in scored.origins])
    return list(found), auc_within_sources(sources, scored.is_clean, scored.logit)


def main() -> None:
    """Score, calibrate on val, report. On val the report's calibration is cross-fitted, so as not to flatter it."""
    params = load(Params)
    network = Network(NETWORK)
    val, test = (score_split(network, params.data, split) for split in ("val", "test"))
    calibration = fit(val.logit, val.is_clean)
    p_test = calibration.p_clean(test.logit)
    p_val_unseen = cross_fitted(val.logit, val.is_clean, folds=FOLDS, seed=params.eval.seed)
    report = {"val": report_split(val, p_val_unseen, params.eval), "test": report_split(test, p_test, params.eval)}
    leaning, within = report_shortcuts(test, params.eval)
    if within:
        report["test"]["roc_auc_within_sources"] = within
    write_atomically({
        PREDICTIONS / "val.csv": predictions(val, calibration.p_clean(val.logit)),
        PREDICTIONS / "test.csv": predictions(test, p_test),
        **plots(PLOTS, test.is_clean, test.logit, p_test, expit(test.logit), params.eval.bins),
        PLOTS / "leaning.csv": csv_bytes([each.name for each in fields(Leaning)], map(astuple, leaning)),
        CALIBRATION: json_bytes(asdict(calibration), digits=None),
        REPORT: json_bytes(report),
    })  # fmt: skip
    for one in leaning:
        if one.warn:
            print(
                f"WARNING: the score of {one.label} photos follows their {one.feature} (rank correlation "
                f"{one.correlation:.2f}, 95 % interval {one.low:.2f} to {one.high:.2f}); the network may lean on it. "
                f"See {PLOTS}/leaning.csv"
            )
    print("test ROC-AUC {value:.4f} (95 % interval {low:.4f} to {high:.4f})".format(**report["test"]["roc_auc"]))


if __name__ == "__main__":
    run_stage("eval", main)
