"""Photos that show no car: the measure in the network, its limit, and what service and batch make of it."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flask import Flask
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import beta

from serving.app import create_app
from serving.batch.__main__ import main as batch
from serving.inference.model.predictor import Network
from serving.inference.verdict.rule import REASONS, Limits, Measures, ThresholdError, parse_threshold
from serving.settings import Settings
from serving.web import state
from stages.backbone.__main__ import reference_weights
from stages.common.base.params import Data
from stages.common.base.paths import REFERENCE
from stages.common.base.photos import train_photos
from stages.common.pixels.photo_set import PhotoSet
from stages.convert import car_check
from stages.convert.__main__ import contents
from stages.convert.graph import Logit, to_onnx
from stages.convert.precision import to_fp16, to_int8
from stages.threshold.refusal import Cut, choose_limit, choose_refusal
from tests.support import networks
from tests.support.live import photo
from tests.support.onnx_models import METADATA, Pair, brightness, properties, write_model, write_pair
from tests.support.workspace import write_photos

CAPS = Limits(dark_below=0.12, sharpness_below=0.08, small_below=64)
ALLOWED = [(299, 1), (472, 1), (473, 2), (3000, 21)]  # cars -> blocks that are at most 1 % with 95 % confidence


def choose(distance: np.ndarray, adequate: np.ndarray | None = None) -> Cut:
    return choose_limit(distance, adequate, max_refused=0.01, confidence=0.95)


@pytest.mark.parametrize(("n", "allowed"), ALLOWED)
def test_the_limit_is_the_lowest_order_statistic_that_keeps_the_promise(n: int, allowed: int) -> None:
    found = choose(np.random.default_rng(0).permutation(n) + 1.0)
    assert found.certified and found.max_distance == n - allowed + 1 and found.refused == allowed - 1
    refused = [beta(count, n - count + 1).sf(0.01) for count in (allowed, allowed + 1)]  # P(more than 1 % are refused)
    assert refused[0] <= 0.05 < refused[1]


def test_too_few_cars_say_how_many_can() -> None:
    found = choose(np.arange(1.0, 299.0))
    assert not found.certified and found.max_distance == 298 and found.reason and "299" in found.reason
    assert choose(np.zeros(999)).max_distance is None


def test_ties_refuse_no_more() -> None:
    found = choose(np.repeat([1.0, 2.0], [500, 500]))
    assert found.certified and found.max_distance == 2 and found.refused == 0
    assert choose(np.arange(1.0, 1000), np.full(999, 0.5))[1:3] == (0.5, 4)  # all of five blocks by distance


def test_poor_photos_take_from_the_share_of_distance_and_no_more_than_half() -> None:
    distance = np.arange(1.0, 3001.0)
    for poor, level, farthest in ((0, 1.0, 2980), (5, 1.0, 2985), (10, 1.0, 2990), (11, 0.5, 2991), (400, 0.5, 2991)):
        adequate = np.repeat([0.5, 2.0], [poor, 3000 - poor])  # poor ones are near
        adequate[:10] *= np.linspace(0.5, 0.9, 10)
        found = choose(distance, adequate)
        assert found.certified and found.adequate == level and found.max_distance == farthest, poor


def test_where_one_block_is_allowed_two_reasons_are_not_certified() -> None:
    adequate = np.full(400, 2.0)
    assert choose(np.arange(1.0, 401), adequate).certified
    adequate[0] = 0.5
    found = choose(np.arange(1.0, 401), adequate)
    assert (found.certified, found.adequate, found.max_distance, found.refused) == (False, 0.5, 400, 0)
    assert found.reason and "473 can" in found.reason
    found = choose(np.zeros(400), adequate)  # without a distance, there is one reason
    assert found.certified and (found.adequate, found.max_distance) == (0.5, None)


@pytest.mark.parametrize("poor", [0.0, 0.003, 0.02])
def test_the_share_refused_for_all_reasons_together_keeps_its_bound_exactly(poor: float) -> None:
    """The law of the share of all cars that is refused, by simulation: beyond 1 % in no more than 5 % of the draws."""
    rng, draws, n, above = np.random.default_rng(0), 4000, 1000, 0
    for _ in range(draws):
        adequate, distance = rng.random(n) / max(poor, 1e-9), rng.random(n)
        found = choose(distance, adequate)
        assert found.max_distance is not None
        share = min(found.adequate * poor, 1.0)
        above += 1 - (1 - share) * found.max_distance > 0.01
    expected = beta(5, n - 4).sf(0.01)  # of 1,000 photos, five blocks
    assert expected <= 0.05 and abs(above / draws - expected) < 4 * np.sqrt(expected / draws)


def test_limits_are_lowered_by_one_factor_and_told_by_reason() -> None:
    usable = Measures(0.05, 0.5, 0.4, 800)
    measures = [usable._replace(distance=0.1 + i / 1e4) for i in range(1000)]
    measures[:2] = [usable._replace(brightness=0.01), usable._replace(side=32)]
    found = choose_refusal(np.array(measures), CAPS, max_refused=0.01, confidence=0.95)
    assert found.certified and found.limits == replace(CAPS, max_distance=found.max_distance)
    assert found.refused == {"too_small": 1, "too_dark": 1, "no_car": 2}
    measures[:9] = [usable._replace(sharpness=0.01 * (1 + i) / 2) for i in range(9)]
    found = choose_refusal(np.array(measures), CAPS, max_refused=0.01, confidence=0.95)
    assert found.refused == {"too_blurred": 2, "no_car": 1}
    assert found.small_below / 64 == pytest.approx(found.dark_below / 0.12) == pytest.approx(0.015 / 0.08)
    assert choose_refusal(np.array(measures), Limits(), max_refused=0.01, confidence=0.95).sharpness_below == 0


WRONG = [{name: wrong} for name in ("max_distance", "dark_below", "small_below") for wrong in ("1", True, [], np.inf)]


@pytest.mark.parametrize("refusal", [{}, [], "off", {"dark_below": 0.1}, {"max_distance": np.nan}, *WRONG])
def test_a_damaged_limit_is_refused(refusal: object) -> None:
    content = {"T_clean": 0.5, "T_low": None, "certified": True, "refusal": refusal}
    if isinstance(refusal, dict) and refusal not in ({}, {"dark_below": 0.1}):
        content["refusal"] = {"max_distance": None} | refusal
    if refusal:
        with pytest.raises(ThresholdError, match=r"threshold\.json.*(refusal|not a threshold)"):
            parse_threshold(json.dumps(content).encode(), "threshold.json")
    else:
        assert parse_threshold(json.dumps(content | {"refusal": None}).encode(), "x").rule.limits == Limits()


def test_an_older_decision_has_a_limit_on_distance_alone() -> None:
    content = {"T_clean": 0.5, "T_low": None, "certified": True, "refusal": {"max_distance": 0.4, "certified": True}}
    assert parse_threshold(json.dumps(content).encode(), "x").rule.limits == Limits(max_distance=0.4)
    huge = json.dumps(content | {"refusal": {"max_distance": None, "small_below": 10**400}})
    assert parse_threshold(huge.encode(), "x").rule.decide(1.0, Measures(side=10)) == "unusable"


HEADS = ("conv_head.", "bn2.", "classifier.")
SMALL = "test_efficientnet"


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoSet:
    """Eight photos of 64 pixels, each its own neighbour, in the current folder; the frozen network is a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(car_check, "NAME", SMALL)
    monkeypatch.setattr(car_check, "NEIGHBOURS", 1)
    write_photos(Path("data_cars"), clean=4, dirty=4)
    REFERENCE.parent.mkdir()
    weights = networks.checkpoint(SMALL).weights
    save_file({key: value for key, value in weights.items() if not key.startswith(HEADS)}, REFERENCE)
    names = [f"train/{label}/{number:03}.jpg" for label in ("clean", "dirty") for number in range(4)]
    rows = "".join(f"{name},{name},\n" for name in names)
    Path("artifacts/train_photos.csv").write_text("path,group,source\n" + rows)
    return PhotoSet(Data("data_cars", "none", 1.0, None), list(train_photos()), 64)


@pytest.mark.parametrize("model", [SMALL, networks.SMALL], ids=["stages shared", "nothing shared"])
def test_the_second_output_leaves_the_first_as_it_is(gallery: PhotoSet, model: str) -> None:
    checkpoint, images = networks.checkpoint(model), gallery.pixels(range(8))
    plain = networks.exported(model)
    scores = car_check.add_features(Logit(checkpoint), model, 64, gallery.batches())
    assert (scores.adapter is not None) == (model == SMALL)
    assert not any(parameter.is_inference() for parameter in scores.parameters()), "torch.export refuses such"
    both = to_onnx(scores, checkpoint)
    for make in (lambda graph: graph, to_fp16, lambda graph: to_int8(graph, [images])):
        checked = car_check.add_distance(make(both), gallery.batches())
        Path("network.onnx").write_bytes(contents(checked, replace(METADATA, image_size="64")))
        network = Network(Path("network.onnx"))
        found = network.run_both(np.concatenate([images, 255 - images]))
        alone = networks.run(make(plain), np.concatenate([images, 255 - images]))
        assert (found[:, 0] == alone).all() and (found[:8, 0] == network.run(images)).all()
        assert (found[:8, 1] < 1e-3).all() and (found[8:, 1] > 0.01).all()


def test_the_adapter_undoes_what_training_did_to_the_first_stages(
    gallery: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tf_efficientnet_lite0"
    monkeypatch.setattr(car_check, "NAME", name)
    frozen = reference_weights()
    save_file(frozen, REFERENCE)
    checkpoint = networks.checkpoint(name)
    trained = checkpoint.weights | frozen
    for key in ("0.bn3.weight", "0.bn3.bias", "1.bn3.weight", "1.bn3.bias"):  # the last of the shared stages
        trained[f"blocks.2.{key}"] = -3 * trained[f"blocks.2.{key}"]
    trained["blocks.2.1.conv_pw.weight"] = trained["blocks.2.1.conv_pw.weight"] / -3
    trained["blocks.2.1.bn3.bias"] += torch.rand(40)
    logit = Logit(replace(checkpoint, mean=(0.5,) * 3, std=(0.5,) * 3, weights=trained))
    images = torch.from_numpy(255 - gallery.pixels(range(8)))
    with torch.inference_mode():
        expected = car_check.Features(64).eval()(images)
        found = car_check.add_features(logit, name, 64, gallery.batches())(images)[1]
    assert torch.allclose(expected, found, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(("size", "shares"), [(100, True), (223, True), (224, False)])
def test_stages_are_shared_where_both_networks_see_the_same_pixels(
    size: int, shares: bool, gallery: PhotoSet, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    name = "tf_efficientnet_lite0"
    monkeypatch.setattr(car_check, "NAME", name)
    save_file(reference_weights(), REFERENCE)
    images = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    logit = Logit(networks.checkpoint(name, size))
    scores = car_check.add_features(logit, name, size, [images])
    assert (scores.adapter is not None) == shares
    with torch.inference_mode():
        found, features = scores.eval()(torch.from_numpy(images))
        assert torch.allclose(found, logit(torch.from_numpy(images))) and features.shape == (2, 320)


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


def test_poor_photos_are_unusable_for_their_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the service, as a view of a car, in batch; and counted."""
    refusal = asdict(CAPS) | {"max_distance": None}
    decision = json.dumps({"T_clean": 0.5, "T_low": None, "certified": True, "refusal": refusal})
    write_model(tmp_path / "best.onnx", brightness(32), properties(decision))
    photos = {"too_small": encoded(noise(160, 63)), "too_dark": encoded(noise(160, 160) // 16),
              "too_blurred": photo(200), "clean": encoded(noise(64, 160) // 4 + 150)}  # fmt: skip
    app = create_app(Settings.from_env({"MODEL_PATH": str(tmp_path / "best.onnx")}))
    client = app.test_client()
    try:
        for reason, data in photos.items():
            answer = client.post("/predict/file", data={"file": (io.BytesIO(data), "a.jpg")}).json
            assert answer.get("reason", answer["label"]) == reason
        parts = [(io.BytesIO(data), "a.jpg") for data in photos.values()]
        car = client.post("/predict/car", data={"file": parts}).json
        assert [view.get("reason", view["label"]) for view in car["views"]] == list(photos)
        assert (car["label"], car["p_clean"]) == ("clean", car["views"][-1]["p_clean"])
        counted = client.get("/metrics").text
        assert all(f'dirtycar_unusable_total{{reason="{reason}"}} 2.0' in counted for reason in list(photos)[:3])
        model = client.get("/model").json
        assert model["refuses"] and {name: model[name] for name in refusal} == refusal
        reasons = client.get("/openapi.json").json["components"]["schemas"]["UnusableAnswer"]["properties"]["reason"]
        assert reasons["enum"] == [*REASONS, "copy"]
    finally:
        state.of(app).engine.close()
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "best.onnx"))
    (tmp_path / "photos").mkdir()
    for reason, data in photos.items():
        (tmp_path / "photos" / f"{reason}.jpg").write_bytes(data)
    out, sheet = tmp_path / "out.csv", tmp_path / "sheet.html"
    assert batch([str(tmp_path / "photos"), "--out", str(out), "--sheet", str(sheet)]) == 0
    with out.open(newline="") as file:
        assert all((row["error"] or row["label"]) in row["path"] for row in csv.DictReader(file))
    assert all(reason in sheet.read_text() for reason in photos)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


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
