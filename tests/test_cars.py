"""Cars in several photos: their thresholds, and one verdict on each."""

import csv
import io
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask

from serving.app import create_app
from serving.batch.__main__ import main as batch
from serving.engine.cars import judge
from serving.engine.deployment import Deployment
from serving.fetch.client import UrlUnfetchable
from serving.inference.model.metadata import THRESHOLD
from serving.inference.photo.errors import DecodersBusy
from serving.inference.verdict.rule import Rule, Threshold
from serving.process import metrics
from serving.settings import Settings
from serving.web import state
from stages.common.base.params import load
from stages.threshold.cars import CarThreshold, Seen, car_outcomes, car_thresholds, seen_in_views
from stages.threshold.params import Params, ThresholdParams
from tests.support.live import photo
from tests.support.onnx_models import brightness, properties, write_model
from tests.support.simulated_cars import Photos, draw, violated
from tests.support.workspace import ROOT


@pytest.fixture(scope="module")
def params() -> ThresholdParams:
    return load(Params, ROOT / "params.yaml").threshold


def thresholds(cars: Photos, params: ThresholdParams) -> dict[str, CarThreshold]:
    seen = seen_in_views(*cars)
    assert seen is not None
    return car_thresholds(seen, params)


def test_each_number_of_views_has_its_own_threshold(params: ThresholdParams) -> None:
    found = thresholds(draw(np.random.default_rng(1), 800, 4), params)
    assert list(found) == ["1", "2", "3", "4", "any"]
    assert [one.certified for one in found.values()] == [False, True, True, True, True]  # one side hides too much
    assert found["2"].threshold > found["4"].threshold == found["any"].threshold and found["any"].cars == 800


def test_four_photos_of_one_side_are_judged_as_cars_come(params: ThresholdParams) -> None:
    """Most cars have one photo. Four tell the classes apart so well that a low threshold would do for them alone."""
    clean = np.random.default_rng(1).beta(8, 1, 560), np.random.default_rng(2).beta(20, 1, (100, 4))
    dirty = np.random.default_rng(3).beta(2, 3, 120), np.random.default_rng(4).beta(1, 30, (20, 4))
    p_clean = np.concatenate([part.ravel() for part in (*clean, *dirty)])
    car = np.repeat(np.arange(800), [1] * 560 + [4] * 100 + [1] * 120 + [4] * 20).astype(str)
    found = thresholds((np.arange(len(car)) < 560 + 400, p_clean, car), params)
    assert found["4"].certified and found["4"].threshold == found["any"].threshold
    lowest = clean[1].min(1)
    assert found["4"].recall == (lowest >= found["4"].threshold).mean()
    alone = car_thresholds({"4": Seen(np.arange(120) < 100, np.append(lowest, dirty[1].min(1)))}, params)["4"]
    assert alone.certified and alone.threshold < found["4"].threshold


def test_few_cars_are_said_and_photos_alone_are_no_cars(params: ThresholdParams) -> None:
    is_clean, p_clean, cars = draw(np.random.default_rng(1), 800, 1)
    assert seen_in_views(is_clean, p_clean, cars) is None
    cars[1] = cars[0]
    found = thresholds((is_clean, p_clean, cars), params)
    assert found["any"].certified and not found["2"].certified and "59" in str(found["2"].reason)


def test_a_photo_that_is_not_usable_counts_for_the_label_alone() -> None:
    cars, p_clean = np.array(["a", "a", "b", "b", "c"]), np.array([0.9, 0.1, 0.8, 0.7, 0.2])
    is_clean, usable = np.array([True, False, True, True, False]), np.array([True, False, True, True, False])
    seen = seen_in_views(is_clean, p_clean, cars, usable)
    assert seen is not None and [len(one.lowest) for one in seen.values()] == [2, 1, 0, 0, 2]
    assert list(seen["any"].is_clean) == [False, True] and list(seen["any"].lowest) == [0.9, 0.7]


def test_how_thresholds_turn_out_on_other_cars() -> None:
    one = CarThreshold(0.5, True, None, 59, 9, 0.9)
    cars, p_clean = np.array(["a", "a", "b", "b", "c", "c", "d"]), np.array([0.9, 0.8, 0.8, 0.4, 0.6, 0.7, 0.9])
    seen = seen_in_views(np.array([True, True, True, True, True, False, True]), p_clean, cars)
    assert seen is not None
    found = car_outcomes(seen, dict.fromkeys(seen, one))
    assert list(found) == ["1", "2", "any"]
    counts = {"cars": 3, "dirty": 1, "dirty_as_clean": 1}
    assert found["2"] == counts | {"precision_clean": 0.5, "recall_clean": 0.5, "false_clean_rate": 1.0}
    assert found["any"]["cars"] == 4 and found["any"]["recall_clean"] == pytest.approx(2 / 3)


def test_the_promise_is_kept_in_simulation(params: ThresholdParams) -> None:
    """The full one is benchmarks/cars.py; a promise that is violated in one of 20 draws fails here once in 40."""
    assert sum(violated(np.random.default_rng(seed), 300, 2, params) for seed in range(20)) < 4


CARS = {
    "2": {"threshold": 0.6, "certified": True},
    "any": {"threshold": 0.7, "certified": True},
    "1": {"threshold": 1.0, "certified": False},
}


@pytest.mark.parametrize(
    ("p_clean", "expected"),
    [
        ([0.65, 0.9], ("clean", 0.65, 0.6, True)),
        ([0.65, 0.55], ("dirty", 0.55, 0.6, True)),
        ([0.69], ("dirty", 0.69, 0.7, True)),  # one view is not certified by itself, any number is
        ([0.7, 0.9, 0.8], ("clean", 0.7, 0.7, True)),
    ],
)
def test_the_dirtiest_view_decides(p_clean: Sequence[float], expected: tuple[Any, ...]) -> None:
    rule = Rule(0.8)
    assert judge(p_clean, Threshold(rule, True, "", {"cars": CARS}), rule) == expected
    for threshold, other in (
        (Threshold(rule, True, "", {}), rule),
        (Threshold(rule, True, "", {"cars": CARS}), Rule(0.5)),
    ):
        label = "clean" if min(p_clean) >= other.t_clean else "dirty"
        assert judge(p_clean, threshold, other) == (label, min(p_clean), other.t_clean, False)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    path = tmp_path_factory.mktemp("cars") / "best.onnx"
    threshold = {"T_clean": 0.75, "T_low": None, "certified": True, "cars": CARS, "refusal": {"max_distance": 0.9}}
    write_model(path, brightness(32, distance=True), properties(json.dumps(threshold)))
    app = create_app(Settings.from_env({"MODEL_PATH": str(path), "MIN_VIEWS": "2"}))
    yield app
    state.of(app).engine.close()


def ask(app: Flask, *photos: bytes) -> Any:
    parts = [(io.BytesIO(data), f"{i}.jpg") for i, data in enumerate(photos)]
    return app.test_client().post("/predict/car", data={"file": parts})


def test_one_verdict_on_a_car(app: Flask) -> None:
    body = ask(app, photo(250), photo(5), photo(170), b"no photo").json
    assert (body["label"], body["threshold"], body["certified"]) == ("clean", 0.6, True)
    assert body["p_clean"] == pytest.approx(170 / 255, abs=0.01)
    assert [view.get("label", view.get("status")) for view in body["views"]] == ["clean", "unusable", "dirty", 400]


def test_too_few_usable_views(app: Flask) -> None:
    body = ask(app, photo(250), photo(5)).json
    assert (body["label"], body["reason"], body["certified"]) == ("unusable", "too_few_views", False)
    assert "p_clean" not in body and len(body["views"]) == 2


def test_a_photo_sent_twice_is_one_view(app: Flask) -> None:
    """Else a dirty car would be sent until the threshold for so many views is below it."""
    copies = metrics.UNUSABLE.labels("copy")._value
    before = copies.get()
    assert ask(app, photo(250), photo(250)).json["reason"] == "too_few_views"
    assert copies.get() == before + 1
    body = ask(app, photo(170), photo(250), photo(170)).json
    assert (body["label"], body["threshold"]) == ("clean", 0.6)
    assert [view.get("reason") for view in body["views"]] == [None, None, "copy"]


def test_a_car_is_not_judged_without_a_view_that_the_service_had_no_time_for(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    dirty = photo(5, kind="PNG")
    pixels = Deployment.pixels

    def busy(self: Deployment, data: bytes, *args: Any, **options: Any) -> Any:
        if data == dirty:
            raise DecodersBusy("try again")
        return pixels(self, data, *args, **options)

    monkeypatch.setattr(Deployment, "pixels", busy)
    answer = ask(app, photo(250), photo(170), dirty)
    assert answer.status_code == 503 and answer.headers["Retry-After"] and "label" not in answer.json


def test_at_most_eight_photos(app: Flask) -> None:
    assert ask(app, *[photo(250)] * 9).status_code == 400


def test_a_car_behind_urls(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its photos are fetched at once; one that cannot be is told and not counted, and nothing is held afterwards."""
    held, found = state.of(app), {"a": photo(250), "b": photo(170), "c": b"no photo"}
    before, together = (held.bytes.free, held.fetching._value), threading.Barrier(2)

    def fetch(fetcher: object, url: str) -> bytes:
        if (name := url[-1]) in "ab":
            together.wait(60)
        elif name not in found:
            raise UrlUnfetchable("no answer")
        return found[name]

    monkeypatch.setattr("serving.fetch.client.Fetcher.fetch", fetch)

    def asked(names: str) -> Any:
        return app.test_client().post("/predict/car", json={"urls": [f"https://photos.example/{n}" for n in names]})

    body = asked("axbc").json
    assert (body["label"], body["threshold"], body["certified"]) == ("clean", 0.6, True)
    assert [view.get("label", view.get("status")) for view in body["views"]] == ["clean", 422, "dirty", 400]
    assert asked("xxc").json["reason"] == asked("x").json["reason"] == "too_few_views"
    assert asked("").status_code == asked("x" * 9).status_code == 400
    assert (held.bytes.free, held.fetching._value) == before
    held.bytes.take(held.bytes.free)
    assert asked("xc").status_code == 503
    held.bytes.give(before[0])
    for _ in range(before[1]):
        held.fetching.acquire()
    assert asked("x").status_code == 503
    held.fetching.release()
    assert asked("xxxx").status_code == 200  # one after the other, where there is one place
    held.fetching.release(before[1] - 1)


def test_a_car_behind_refused_urls(app: Flask) -> None:
    body = app.test_client().post("/predict/car", json={"urls": ["http://127.0.0.1/", "ftp://a.example/b"]}).json
    assert [view["type"].rsplit(":", 1)[1] for view in body["views"]] == ["url-refused"] * 2


def test_without_url_fetch_a_car_is_uploaded(app: Flask) -> None:
    off = create_app(Settings.from_env({"MODEL_PATH": str(state.of(app).settings.model_path), "URL_FETCH": "off"}))
    for one, status, bodies in ((off, 415, 1), (app, 200, 2)):
        assert ask(one, photo(250)).status_code == 200
        answer = one.test_client().post("/predict/car", json={"urls": ["http://127.0.0.1/"]})
        assert answer.status_code == status
        document = one.test_client().get("/openapi.json").json["paths"]["/predict/car"]["post"]
        assert len(document["requestBody"]["content"]) == bodies
        assert one.test_client().post("/predict/car", data="x", content_type="text/plain").status_code == 415
    state.of(off).engine.close()


def test_the_metadata_of_the_model_carries_the_certificate(app: Flask) -> None:
    assert json.loads(state.of(app).engine.deployment.predictor.properties[THRESHOLD])["cars"] == CARS
    assert app.test_client().get("/model").json["threshold_json"]["cars"] == CARS
    assert Path(ROOT / "serving/env.example").read_text().count("MIN_VIEWS") == 1


def test_batch_writes_a_table_of_cars(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(state.of(app).settings.model_path))
    monkeypatch.setenv("MIN_VIEWS", "2")
    out = tmp_path / "out.csv"
    for name, grey in {"car1_a": 250, "car1_b": 170, "car2_a": 250, "car2_b": 100, "car3_a": 250, "car3_b": 5}.items():
        (tmp_path / f"{name}.jpg").write_bytes(photo(grey))
    for resume in ([], ["--resume"]):
        assert batch([str(tmp_path / "*.jpg"), "--out", str(out), "--car-regex", "(car[0-9])_", *resume]) == 0
        with out.with_suffix(".cars.csv").open(newline="") as file:
            found = {
                row["car"]: (row["label"], row["certified"], row["views"], row["not_usable"])
                for row in csv.DictReader(file)
            }
        assert found["car1"] == ("clean", "True", "2", "0") and found["car2"] == ("dirty", "True", "2", "0")
        assert found["car3"] == ("unusable", "False", "1", "1")
    assert (
        batch([str(tmp_path / "car1_a.jpg"), str(tmp_path / "car1_a.jpg"), "--out", str(out), "--car-regex", "(car1)"])
        == 0
    )
    assert "car1,unusable,,,False,1,1" in out.with_suffix(".cars.csv").read_text()
    assert (
        batch([str(tmp_path / "*.jpg"), "--out", str(out), "--car-regex", "(car1)?[^/]*$"]) == 0 and not caplog.messages
    )
    assert batch([str(tmp_path / "*.jpg"), "--out", str(out), "--car-regex", "car_([0-9]+)"]) == 0
    assert "each photo is a car of its own" in caplog.text
    for wrong in (["--car-regex", "car"], ["--car-regex", "("]):
        with pytest.raises(SystemExit):
            batch([str(tmp_path), "--out", str(out), *wrong])
