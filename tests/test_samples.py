"""The sample photos: reproducible, dirt on bodywork only, and not to be told apart by colour alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from samples.draw import SEED, draw_photo, draw_set, main, render
from samples.not_cars import SCENES, draw_not_car
from samples.views import CARS, COUNTS, VIEWS, Shot, plan
from stages.common.base.params import load
from stages.split_check.groups import id_of
from stages.split_check.params import Params

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "data_cars"
TINY = {"train": {"clean": 1, "dirty": 1}, "val": {"clean": 1, "dirty": 1}}
TINY_CARS = {"val": {"clean": 1, "dirty": 0}}

needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS.name}/: fetch it with `dvc pull`")


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.jpg")}


def test_a_photo_is_the_same_every_time() -> None:
    calls = ((5, "dirty"), (6, "dirty"), (5, "dirty", 2, "dirty"), (5, "clean", 2, "dirty"))
    photos = [draw_photo(3, *call) for call in calls]
    assert photos == [draw_photo(3, *call) for call in calls]
    assert len(set(photos)) == 4


def test_the_set_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    draw_set(tmp_path / "one", seed=3, processes=1, counts=TINY, cars=TINY_CARS)
    draw_set(tmp_path / "two", seed=3, processes=2, counts=TINY, cars=TINY_CARS)
    photos = contents(tmp_path / "one")
    assert photos == contents(tmp_path / "two")
    assert len({Path(name).stem for name in photos}) == 4 + VIEWS - 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_further_views_are_of_the_same_car_from_elsewhere() -> None:
    """They change none of the other photos; a car lies in one split, its dirty and clean sides under their labels."""
    shots = list(plan(3))
    alone = {one.index: one for one in plan(3, cars={})}
    assert all((one.label, one.first_label) == (alone[one.index].label,) * 2 for one in shots if one.view == 1)
    assert len({one.file for one in shots}) == len(shots)
    cars: dict[int, list[Shot]] = {}
    for one in shots:
        cars.setdefault(one.index, []).append(one)
    for split, several in CARS.items():
        found = [car for car in cars.values() if len(car) == VIEWS and car[0].file.parts[0] == split]
        dirty = [car for car in found if any(one.label == "dirty" for one in car)]
        assert (len(found) - len(dirty), len(dirty)) == (several["clean"], several["dirty"])
        assert {sum(one.label == "dirty" for one in car) for car in dirty} == {3, 4}
        assert {one.first_label for car in dirty for one in car} == {"clean", "dirty"}
    assert all(one.file.parts[:2] == (car[0].file.parts[0], one.label) for car in cars.values() for one in car)
    first, second = (render(3, 5, 0.0, view) for view in (1, 2))
    assert first.size == second.size and (first.body != second.body).any()


def test_the_default_regex_tells_the_cars_of_the_sample_and_of_nobody_else() -> None:
    """Whoever has named photos in another way gets what `data.car_regex: null` gives."""
    regex = load(Params, ROOT / "params.yaml").data.car_regex
    assert regex is not None
    of_view = {one.file.as_posix(): one for one in plan(3)}
    for name, one in of_view.items():
        expected = name.split("/car")[1][:4] if one.file.stem.startswith("car") else None
        assert id_of(name, regex) == expected
    others = ("0001.jpg", "IMG_1234.jpg", "car_1.jpg", "car12/3.jpg", "20240101_0930.jpg", "oscar1_view2.jpg")
    assert not any(id_of(f"train/clean/{name}", regex) for name in others)


def test_pictures_of_no_car() -> None:
    drawn = [draw_not_car(3, index) for index in range(len(SCENES))]
    assert [kind for kind, _ in drawn] == list(SCENES) and len({photo for _, photo in drawn}) == len(SCENES)
    assert drawn[1] == draw_not_car(3, 1)


@pytest.mark.parametrize("index", range(4))
def test_dirt_stays_on_the_body_and_grows_with_severity(index: int) -> None:
    view = 1 + index // 2
    clean = render(3, index, 0.0, view)
    before = clean.covered
    assert not before.any()
    for severity in (0.2, 0.4, 0.6, 1.0):
        dirty = render(3, index, severity, view)
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
    photos = contents(PHOTOS)
    assert set(photos) == {str(one.file) for one in plan(SEED)}
    assert len(set(photos.values())) == len(photos) == 2300 + 600
    assert sum(one.view == 1 for one in plan(SEED)) == sum(sum(labels.values()) for labels in COUNTS.values())
    assert sum(map(len, photos.values())) <= 22e6


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
