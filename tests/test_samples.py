"""The sample photos: reproducible, dirt on bodywork only, and not to be told apart by colour alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from samples.draw import COUNTS, draw_photo, draw_set, main, render

PHOTOS = Path(__file__).parents[1] / "data_cars"
TINY = {"train": {"clean": 2, "dirty": 1}, "val": {"clean": 1, "dirty": 1}}

needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS.name}/: fetch it with `dvc pull`")


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.jpg")}


def test_a_photo_is_the_same_every_time() -> None:
    assert draw_photo(3, 5, "dirty") == draw_photo(3, 5, "dirty")
    assert draw_photo(3, 5, "dirty") != draw_photo(3, 6, "dirty")


def test_the_set_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    draw_set(tmp_path / "one", seed=3, processes=1, counts=TINY)
    draw_set(tmp_path / "two", seed=3, processes=2, counts=TINY)
    photos = contents(tmp_path / "one")
    assert photos == contents(tmp_path / "two")
    assert len({Path(name).stem for name in photos}) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("index", range(4))
def test_dirt_stays_on_the_body_and_grows_with_severity(index: int) -> None:
    clean = render(3, index, 0.0)
    before = clean.covered
    assert not before.any()
    for severity in (0.2, 0.4, 0.6, 1.0):
        dirty = render(3, index, severity)
        changed = (dirty.image != clean.image).any(axis=-1)
        assert not changed[clean.body == 0].any()
        assert not dirty.covered[clean.body == 0].any()
        assert (dirty.covered >= before - 1e-6).all()  # no pixel comes clean
        assert dirty.covered.sum() > before.sum()
        before = dirty.covered


def test_a_folder_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    monkeypatch.setattr("sys.argv", ["draw", str(tmp_path)])
    with pytest.raises(SystemExit, match="exists and is not empty"):
        main()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@needs_photos
def test_layout_counts_and_size() -> None:
    for split, labels in COUNTS.items():
        for label, count in labels.items():
            assert len(list((PHOTOS / split / label).glob("*.jpg"))) == count
    photos = contents(PHOTOS)
    assert len(photos) == sum(sum(labels.values()) for labels in COUNTS.values())
    assert len(set(photos.values())) == len({Path(name).stem for name in photos}) == len(photos)
    assert sum(map(len, photos.values())) <= 25e6


def histograms(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the photo's pixels in 8 bins per channel, and in 4 x 4 x 4 bins of the three together."""
    pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    per_channel = [np.bincount(channel, minlength=8) for channel in (pixels // 32).T]
    joint = np.bincount(pixels // 64 @ np.array([16, 4, 1]), minlength=64)
    return np.concatenate(per_channel) / len(pixels), joint / len(pixels)


@needs_photos
def test_colour_alone_does_not_tell_clean_from_dirty() -> None:
    files = {split: sorted((PHOTOS / split).glob("*/*.jpg")) for split in ("train", "test")}
    labels = {split: [file.parent.name == "dirty" for file in found] for split, found in files.items()}
    colours = {split: zip(*map(histograms, found), strict=True) for split, found in files.items()}
    for train, test in zip(colours["train"], colours["test"], strict=True):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train, labels["train"])
        assert roc_auc_score(labels["test"], model.decision_function(test)) <= 0.80
