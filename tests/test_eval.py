"""Calibration, metrics and what the eval stage writes."""

import csv
import json
import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from stages.common.calibration import Calibration, cross_fitted, fit
from stages.common.rates import outcome, verdicts
from stages.eval.leaning import auc_within_sources, leanings
from stages.eval.metrics import expected_calibration_error, point_metrics, reliability, with_intervals
from tests.support.workspace import InProcess, Workspace
from tools.summary import rows


def draw(rng: np.random.Generator, n: int, scale: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels for which p = sigmoid(scale * logit + offset) is true."""
    logit = rng.normal(0, 3, n)
    return logit, rng.random(n) < expit(scale * logit + offset)


def test_calibration_finds_the_true_map(rng: np.random.Generator) -> None:
    logit, is_clean = draw(rng, 50_000, 0.6, 1.2)
    found = fit(logit, is_clean)
    assert found.scale == pytest.approx(0.6, rel=0.05)
    assert found.offset == pytest.approx(1.2, abs=0.06)


@pytest.mark.parametrize(
    ("logit", "is_clean"),
    [
        ([-5.0, -4.0, 6.0, 7.0], [False, False, True, True]),  # separable: maximum likelihood has no end
        ([5.0, 4.0, -6.0, -7.0], [False, False, True, True]),  # the wrong way round
        ([1.0, 1.0, 1.0], [True, True, False]),  # constant
        ([0.3], [True]),  # one photo
    ],
)
def test_a_tiny_val_set_cannot_wreck_it(logit: list[float], is_clean: list[bool]) -> None:
    found = fit(np.array(logit), np.array(is_clean))
    assert 0 < found.scale < 20 and math.isfinite(found.offset)
    p_clean = found.p_clean(np.array(logit))
    assert (p_clean > 0).all() and (p_clean < 1).all()


def test_calibration_keeps_the_order_of_photos(rng: np.random.Generator) -> None:
    logit, is_clean = draw(rng, 300, 0.5, -1)
    p_clean = fit(logit, is_clean).p_clean(logit)
    assert (np.argsort(p_clean) == np.argsort(logit)).all()


def test_cross_fitting_does_not_see_the_photo_it_judges(rng: np.random.Generator) -> None:
    logit, is_clean = draw(rng, 40, 1.0, 0.0)
    p_clean = cross_fitted(logit, is_clean, folds=5, seed=0)
    bumped = logit.copy()
    bumped[0] += 5  # folds go by the labels alone, so they stay
    again = cross_fitted(bumped, is_clean, folds=5, seed=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(logit[:, None], is_clean)
    (own,) = (part for _, part in folds if 0 in part)
    others = np.setdiff1d(np.arange(40), own)
    assert (again[own[own != 0]] == p_clean[own[own != 0]]).all() and (again[others] != p_clean[others]).all()
    assert np.isfinite(cross_fitted(logit[:3], np.array([True, True, False]), folds=5, seed=0)).all()


def test_reliability_counts_every_photo_and_keeps_ties_together(rng: np.random.Generator) -> None:
    p_clean = np.repeat([0.1, 0.5, 0.9], [50, 30, 20])
    groups = reliability(np.ones(100, bool), p_clean, 10)
    assert [count for _, _, count in groups] == [50, 30, 20]
    many = rng.random(1003)
    assert sum(count for _, _, count in reliability(many > 0.5, many, 10)) == 1003


def test_calibration_error_of_true_and_of_wrong_probabilities(rng: np.random.Generator) -> None:
    p_clean = rng.random(100_000)
    is_clean = rng.random(100_000) < p_clean
    assert expected_calibration_error(is_clean, p_clean, 10) < 0.01
    assert expected_calibration_error(is_clean, p_clean**3, 10) > 0.1


def test_intervals_hold_the_value_and_shrink_with_photos(rng: np.random.Generator) -> None:
    widths = []
    for n in (200, 5000):
        logit, is_clean = draw(rng, n, 1.0, 1.0)
        found = with_intervals(is_clean, logit, expit(logit + 1), list(map(str, range(n))), bins=10, draws=40, seed=0)
        assert found["roc_auc"]["low"] <= found["roc_auc"]["value"] <= found["roc_auc"]["high"]
        widths.append(found["roc_auc"]["high"] - found["roc_auc"]["low"])
    assert widths[1] < widths[0] / 2


def test_copies_of_photos_make_no_interval_narrower(rng: np.random.Generator) -> None:
    """Six equal photos of a car tell what one tells, also where a car is shown clean and dirty."""
    logit, is_clean = draw(rng, 200, 1.0, 1.0)
    cars = [f"car {number // 2}" for number in range(200)]
    once = with_intervals(is_clean, logit, expit(logit), cars, bins=10, draws=40, seed=0)
    six = with_intervals(*(np.repeat(x, 6) for x in (is_clean, logit, expit(logit))), np.repeat(cars, 6).tolist(),
                         bins=10, draws=40, seed=0)  # fmt: skip
    for name in ("roc_auc", "accuracy", "brier"):
        assert six[name] == pytest.approx(once[name])


def test_ranks_are_those_of_the_logits(rng: np.random.Generator) -> None:
    """Maps fitted on other folds shift p_clean against each other; the network's ranks are not theirs to change."""
    logit, is_clean = draw(rng, 60, 1.0, 0.0)
    mixed = expit(logit + np.resize([-3.0, 0.0, 3.0], 60))
    found = point_metrics(is_clean, logit, mixed, 10)
    assert found["roc_auc"] == roc_auc_score(is_clean, logit) != roc_auc_score(is_clean, mixed)
    assert found["average_precision_dirty"] == average_precision_score(~is_clean, -logit)


def test_metrics_of_a_perfect_model() -> None:
    is_clean = np.array([True, False, True])
    found = point_metrics(is_clean, is_clean - 0.5, is_clean.astype(float), 10)
    assert found["roc_auc"] == found["accuracy"] == found["average_precision_dirty"] == found["f1_dirty"] == 1
    assert found["brier"] == found["ece"] == 0


def test_outcome_counts_uncertain_both_ways() -> None:
    from serving.inference.verdict.rule import Rule

    is_clean = np.array([True, True, True, False, False])
    found = outcome(is_clean, verdicts(Rule(0.8, 0.4), [0.9, 0.5, 0.1, 0.85, 0.45]))
    assert found["dirty_as_clean"] == 1 and found["precision_clean"] == 0.5
    assert found["recall_clean"] == pytest.approx(1 / 3)
    assert found["recall_clean_with_uncertain"] == pytest.approx(2 / 3)
    assert found["precision_clean_with_uncertain"] == 0.5
    assert found["recall_dirty"] == 0 and found["recall_dirty_with_uncertain"] == 0.5
    assert found["review_share"] == 0.4
    nothing = outcome(is_clean, verdicts(Rule(1.0), [0.9, 0.5, 0.1, 0.85, 0.45]))
    assert nothing["precision_clean"] is None and nothing["recall_clean"] == 0


def test_a_score_that_follows_a_trivial_feature_is_warned_of_and_no_other() -> None:
    """A score that tells the classes apart by a feature follows it within each class too."""
    rng = np.random.default_rng(1)
    is_clean = np.arange(400) < 200
    size, exif = is_clean + rng.normal(0, 1, 400), np.where(rng.random(400) < 0.1, np.nan, rng.integers(0, 2, 400))
    features = {"resolution": size, "EXIF": exif.astype(float), "constant": np.ones(400)}
    cars = [str(number // 2) for number in range(400)]
    leaning, honest = (
        list(leanings(features, is_clean, logit, cars, draws=100, seed=0))
        for logit in (size + rng.normal(0, 0.5, 400), is_clean + rng.normal(0, 1, 400))
    )
    assert [(one.feature, one.label) for one in leaning if one.warn] == [
        ("resolution", "dirty"),
        ("resolution", "clean"),
    ]
    assert [one.feature for one in honest] == ["resolution"] * 2 + ["EXIF"] * 2 and not any(one.warn for one in honest)
    for one in leaning + honest:
        known = np.isfinite(features[one.feature]) & (is_clean == (one.label == "clean"))
        assert one.low < one.correlation < one.high and one.photos == known.sum()


def test_auc_within_sources_is_of_those_with_both_classes() -> None:
    is_clean, logit = np.array([True, False, True, False, True]), np.array([1.0, 0.0, 3.0, 4.0, 9.0])
    sources = np.array(["a", "a", "b", "b", "catalogue"])
    assert auc_within_sources(sources, is_clean, logit) == {"a": 1.0, "b": 0.0}


def test_what_the_stage_writes(pipeline: Workspace) -> None:
    calibration = Calibration(**json.loads((pipeline.folder / "artifacts/calibration.json").read_text()))
    report = json.loads((pipeline.folder / "reports/eval.json").read_text())
    for split in ("val", "test"):
        with (pipeline.folder / f"artifacts/predictions/{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        header = "path,label,logit,p_clean,distance,brightness,sharpness,side,group,source"
        assert list(rows[0]) == header.split(",")
        files = {str(path.relative_to(pipeline.data)) for path in (pipeline.data / split).rglob("*.jpg")}
        assert {row["path"] for row in rows} == files
        assert all(row["path"].split("/")[1] == row["label"] for row in rows)
        logit = np.array([float(row["logit"]) for row in rows])
        assert [float(row["p_clean"]) for row in rows] == calibration.p_clean(logit).tolist()
        auc = roc_auc_score([row["label"] == "clean" for row in rows], logit)
        assert report[split]["roc_auc"]["value"] == pytest.approx(auc, abs=1e-6)
    with (pipeline.folder / "reports/eval/leaning.csv").open(newline="") as file:
        assert {(row["feature"], row["label"]) for row in csv.DictReader(file)} >= {("brightness", "clean")}


def test_the_summary_tells_how_many_experiments_may_be_chosen_among(
    pipeline: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.folder)
    assert ("experiments to choose among", "1 (threshold.tries)") in rows()


def test_a_damaged_checkpoint_is_named(workspace: Workspace) -> None:
    (workspace.folder / "artifacts").mkdir()
    (workspace.folder / "artifacts/best.pt").write_bytes(b"PK\x03\x04 not really")
    InProcess(workspace.folder).refuses("convert", "artifacts/best.pt is not a usable checkpoint", "dvc repro train")
