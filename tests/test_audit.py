"""make audit: wrong labels are found by heads that never saw them; the list repeats; what is missing is named."""

import csv
from pathlib import Path

import numpy as np
import pytest

from stages.common.base.errors import StageError
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, list_photos
from stages.train.params import Params
from tests.support.workspace import Workspace
from tools.audit import Labels, features, main, out_of_fold, rank_suspects

AUDIT, BLIND, PAGE = (Path("reports", name) for name in ("label_audit.csv", "blind_sample.csv", "split_check.html"))


def clouds(n_clean: int, n_dirty: int, distance: float) -> tuple[np.ndarray, Labels]:
    """Features `[N, 200]`, of which 40 lie `distance` standard deviations apart in the two classes; true labels."""
    rng = np.random.default_rng(0)
    labels = np.array([CLEAN_LABEL] * n_clean + [DIRTY_LABEL] * n_dirty)
    x = rng.normal(size=(len(labels), 200)).astype(np.float32)
    x[labels == CLEAN_LABEL, :40] += distance
    return x, labels


@pytest.mark.parametrize(("n_clean", "n_dirty"), [(400, 100), (970, 30)])
def test_planted_wrong_labels_come_first(n_clean: int, n_dirty: int) -> None:
    x, truth = clouds(n_clean, n_dirty, distance=1.5)
    wrong = np.zeros(len(truth), bool)
    wrong[np.random.default_rng(1).choice(len(truth), 20, replace=False)] = True
    labels = np.where(wrong, 1 - truth, truth)
    found = rank_suspects(labels, out_of_fold(x, labels, np.arange(len(labels)).astype(str)))
    assert wrong[found[:10]].all() and wrong[found].sum() >= 12 and wrong[found].mean() >= 0.9


def test_right_labels_are_not_suspected() -> None:
    x, labels = clouds(300, 100, distance=3.0)
    assert len(rank_suspects(labels, out_of_fold(x, labels, np.arange(400).astype(str)))) == 0


def test_a_photo_is_not_judged_by_copies_of_itself() -> None:
    """Ten copies of a clean photo, all labelled dirty: to a head that saw some of them the others look right."""
    x, labels = clouds(300, 60, distance=1.5)
    x[:10] = x[0]
    x[:10, 50:60] = 5.0  # what the copies have in common
    labels[:10] = DIRTY_LABEL
    cars = np.arange(len(labels)).astype(str)
    alone = out_of_fold(x, labels, cars)[:10, DIRTY_LABEL]
    cars[:10] = "one car"
    together = out_of_fold(x, labels, cars)[:10, DIRTY_LABEL]
    assert alone.min() > 2 * together.max()


def test_too_few_photos_of_a_class_are_refused() -> None:
    x, labels = clouds(50, 8, distance=1.0)
    cars = np.arange(58).astype(str)
    cars[-5:] = cars[-1]
    with pytest.raises(StageError, match="needs 5 dirty photos that are no copies"):
        out_of_fold(x, labels, cars)


def test_the_list_covers_every_split_repeats_and_reaches_the_page(
    trainable: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "make audit" in PAGE.read_text()
    main()
    said, first = capsys.readouterr().out, AUDIT.read_bytes()
    with AUDIT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert f"{len(rows)} of 72 labels are suspicious" in said and "AUC of " in said
    for rank, row in enumerate(rows, 1):
        split, label, _ = row["path"].split("/")
        assert (row["rank"], row["split"], row["label"]) == (str(rank), split, label)
        assert {row["label"], row["suggested"]} == {"clean", "dirty"}
    assert [float(row["p_label"]) for row in rows] == sorted(float(row["p_label"]) for row in rows)
    assert f'Suspected labels <span class="count">{len(rows)}</span>' in PAGE.read_text()
    sample = BLIND.read_text().split()[1:]
    assert len(sample) == 48 == len(set(sample)) and {name.split("/")[0] for name in sample} == {"val", "test"}
    assert sample != sorted(sample) and 'id="blind"' in PAGE.read_text()
    main()
    assert AUDIT.read_bytes() == first and BLIND.read_text().split()[1:] == sample


def test_features_follow_the_photos_not_their_order(trainable: Workspace) -> None:
    photos, params = list_photos(trainable.data, "train"), load(Params)
    forward, backward = features(photos, params), features(photos[::-1], params)
    assert forward.shape[0] == len(photos) and forward.shape[1] > 100
    np.testing.assert_allclose(forward, backward[::-1], rtol=1e-3, atol=1e-3)
    assert np.ptp(forward, axis=0).max() > 0.01


def test_what_is_missing_is_named(trainable: Workspace) -> None:
    (trainable.folder / "artifacts/backbone.safetensors").unlink()
    with pytest.raises(StageError, match=r"artifacts/backbone\.safetensors .*`dvc repro backbone`"):
        main()
    (trainable.data / "val/clean/001.jpg").rename(trainable.data / "val/clean/new.jpg")
    with pytest.raises(StageError, match=r"artifacts/groups\.csv .*val/clean/new\.jpg.*`dvc repro split_check`"):
        main()
    (trainable.folder / "artifacts/exclusions.csv").unlink()
    with pytest.raises(StageError, match=r"cannot read artifacts/"):
        main()
