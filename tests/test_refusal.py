"""Photos that show no car: the measure in the network, its limit, and what service and batch make of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from flask import Flask
from safetensors.torch import save_file
from scipy.stats import beta

from serving.app import create_app
from serving.batch.__main__ import main as batch
from serving.model.predictor import Network
from serving.settings import Settings
from serving.verdict.rule import ThresholdError, parse_threshold
from serving.web import state
from stages.backbone.__main__ import reference_weights
from stages.common.base.params import Data
from stages.common.base.paths import REFERENCE
from stages.common.base.photos import train_photos
from stages.common.pixels.photo_set import PhotoSet
from stages.convert import car_check
from stages.convert.__main__ import contents
from stages.threshold.refusal import choose_limit
from tests.support import networks
from tests.support.live import photo
from tests.support.onnx_models import METADATA, Pair, write_pair
from tests.support.workspace import write_photos


@pytest.mark.parametrize(("n", "allowed"), [(299, 1), (472, 1), (473, 2), (3000, 21)])
def test_the_limit_is_the_lowest_order_statistic_that_keeps_the_promise(n: int, allowed: int) -> None:
    found = choose_limit(np.random.default_rng(0).permutation(n) + 1.0, max_refused=0.01, confidence=0.95)
    assert found.certified and found.max_distance == n - allowed + 1 and found.refused == allowed - 1
    refused = [beta(count, n - count + 1).sf(0.01) for count in (allowed, allowed + 1)]  # P(more than 1 % are refused)
    assert refused[0] <= 0.05 < refused[1]


def test_too_few_cars_say_how_many_can() -> None:
    found = choose_limit(np.arange(1.0, 299.0), max_refused=0.01, confidence=0.95)
    assert not found.certified and found.max_distance == 298 and found.reason and "299" in found.reason
    assert choose_limit(np.zeros(999), max_refused=0.01, confidence=0.95).max_distance is None


def test_ties_refuse_no_more() -> None:
    found = choose_limit(np.repeat([1.0, 2.0], [500, 500]), max_refused=0.01, confidence=0.95)
    assert found.certified and found.max_distance == 2 and found.refused == 0


@pytest.mark.parametrize("refusal", [{}, [], {"max_distance": "far"}, {"max_distance": True}])
def test_a_damaged_limit_is_refused(refusal: object) -> None:
    content = {"T_clean": 0.5, "T_low": None, "certified": True, "refusal": refusal}
    if refusal:
        with pytest.raises(ThresholdError):
            parse_threshold(json.dumps(content).encode(), "threshold.json")
    else:
        assert not parse_threshold(json.dumps(content | {"refusal": None}).encode(), "x").content["refusal"]


def test_the_second_output_leaves_the_first_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(Path("data_cars"), clean=4, dirty=4)
    REFERENCE.parent.mkdir()
    save_file(reference_weights(), REFERENCE)
    names = [f"train/{label}/{number:03}.jpg" for label in ("clean", "dirty") for number in range(4)]
    rows = "".join(f"{name},{name},\n" for name in names)
    Path("artifacts/train_photos.csv").write_text("path,group,source\n" + rows)
    gallery = PhotoSet(Data("data_cars", "none", 1.0), list(train_photos()), 64)
    monkeypatch.setattr(car_check, "NEIGHBOURS", 1)
    plain = networks.exported()
    both = car_check.add_distance(plain, gallery, lambda features: features)
    Path("network.onnx").write_bytes(contents(both, METADATA.__class__(**{**vars(METADATA), "image_size": "64"})))
    network = Network(Path("network.onnx"))
    images = np.concatenate([gallery.pixels(range(8)), 255 - gallery.pixels(range(8))])
    scores = network.run_both(images)
    assert (scores[:, 0] == networks.run(plain, images)).all() and (scores[:, 0] == network.run(images)).all()
    assert (scores[:8, 1] < 1e-3).all() and (
        scores[8:, 1] > 0.01
    ).all()  # each photo of the gallery is its own neighbour
    onnx.checker.check_model(both, full_check=True)


def test_averaging_within_the_first_layer_is_averaging_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    REFERENCE.parent.mkdir()
    save_file(reference_weights(), REFERENCE)
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    small = images.reshape(2, 112, 2, 112, 2, 3).float().mean((2, 4))
    with torch.inference_mode():
        expected, found = (car_check.Features(size).eval()(x) for size, x in ((112, small), (224, images)))
    assert torch.allclose(expected, found, atol=1e-3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Dark photos show no car."""
    return write_pair(tmp_path_factory.mktemp("pair"), t_clean=0.75, max_distance=0.6)


@pytest.fixture(scope="module", params=["on", "off"])
def app(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Flask]:
    app = create_app(Settings.from_env({"MODEL_PATH": str(pair.model), "REFUSE": request.param}))
    app.config["REFUSE"] = request.param
    yield app
    state.of(app).engine.close()


def test_no_car_is_unusable_unless_refusing_is_off(app: Flask) -> None:
    client, on = app.test_client(), app.config["REFUSE"] == "on"
    labels = []
    for grey in (255, 110, 20):
        answer = client.post("/predict/file", data={"file": (io.BytesIO(photo(grey)), "a.jpg")})
        assert answer.status_code == 200
        labels.append(answer.json["label"])
        if labels[-1] == "unusable":
            assert set(answer.json) == {"label", "reason", "model"} and answer.json["reason"] == "no_car"
    assert labels == ["clean", "dirty", "unusable" if on else "dirty"]
    model = client.get("/model").json
    assert (model["refuses"], model["max_distance"], model["certified"]) == (
        (True, 0.6, True) if on else (False, None, False)
    )
    assert not on or 'dirtycar_verdicts_total{label="unusable"}' in client.get("/metrics").text
    schema = client.get("/openapi.json").json["components"]["schemas"]
    assert "unusable" in str(schema["UnusableAnswer"]["properties"]["label"])


def test_batch_names_the_reason_and_resumes(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_PATH", str(pair.model))
    folder, out = tmp_path / "photos", tmp_path / "out.csv"
    folder.mkdir()
    for grey in (20, 255):
        (folder / f"{grey}.jpg").write_bytes(photo(grey))
    for resume in ([], ["--resume"]):
        assert batch([str(folder), "--out", str(out), *resume]) == 0
        with out.open(newline="") as file:
            first, second = csv.DictReader(file)
        assert (first["label"], first["p_clean"], first["error"]) == ("unusable", "", "no_car")
        assert (second["label"], second["error"]) == ("clean", "")
