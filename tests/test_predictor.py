"""Only the right model with the right threshold is served."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.engine.deployment import load
from serving.inference.model import predictor
from serving.inference.model.metadata import GOLDEN, THRESHOLD
from serving.inference.model.predictor import GPU_BATCH, ModelError, Predictor
from serving.inference.photo.cores import processor
from serving.inference.verdict.rule import Rule, ThresholdError, read_threshold
from serving.settings import Settings
from tests.support.onnx_models import METADATA, brightness, properties, write_model, write_pair


def test_scores_and_decides(tmp_path: Path) -> None:
    loaded = Predictor(write_pair(tmp_path, t_clean=0.75, t_low=0.5).model, threads=1)
    images = np.stack([np.full((32, 32, 3), grey, np.uint8) for grey in (255, 150, 20)])
    p_clean = loaded.p_clean(images)
    assert p_clean.dtype == np.float32 and np.allclose(p_clean, [1, 150 / 255, 20 / 255], atol=1e-6)
    assert loaded.verdicts(p_clean) == ["clean", "uncertain", "dirty"]
    assert loaded.provider == "CPUExecutionProvider" and loaded.image_size == 32


def test_a_threshold_in_place_of_the_embedded_one_is_certified_if_it_is_the_same(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    assert load(settings(pair, THRESHOLD_PATH=str(pair.threshold), REQUIRE_CERTIFIED="1"), *pair).certified
    content = json.loads(pair.threshold.read_text())
    pair.threshold.write_text(json.dumps(content | {"T_clean": 0.1}))
    served = load(settings(pair, THRESHOLD_PATH=str(pair.threshold)), *pair)
    assert served.rule.t_clean == 0.1 and not served.certified
    with pytest.raises(ModelError, match="THRESHOLD_PATH"):
        load(settings(pair, THRESHOLD_PATH=str(pair.threshold), REQUIRE_CERTIFIED="1"), *pair)
    assert load(settings(pair, REQUIRE_CERTIFIED="1"), pair.model, None).rule.t_clean == 0.75


@pytest.mark.parametrize("key", [THRESHOLD, GOLDEN])
@pytest.mark.parametrize("text", [None, "", "{}", "[]"])
def test_an_unusable_decision_or_golden_answers_are_named(tmp_path: Path, key: str, text: str | None) -> None:
    pair = write_pair(tmp_path)
    facts = properties(pair.threshold.read_text()) | {key: text or ""}
    write_model(pair.model, brightness(32), {k: v for k, v in facts.items() if k != key or text is not None})
    with pytest.raises((ModelError, ThresholdError), match=rf"best\.onnx.*{key}"):
        Predictor(pair.model)


def test_a_model_for_cpus_never_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "gpu_count", lambda: 1)
    monkeypatch.setattr(predictor.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert predictor.default_providers("gpu")[0] == "CUDAExecutionProvider"
    assert predictor.default_providers("cpu") == ["CPUExecutionProvider"]


def test_every_call_of_a_gpu_has_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, sizes = Predictor(write_pair(tmp_path).model, threads=1), []
    images = np.stack([np.full((32, 32, 3), grey, np.uint8) for grey in range(70)])
    expected, run = loaded.p_clean(images), loaded.session.run
    monkeypatch.setattr(Predictor, "on_gpu", True)
    monkeypatch.setattr(loaded.session, "run", lambda *call: sizes.append(len(call[1]["image"])) or run(*call))
    for count in (1, 32, 70):
        assert (loaded.p_clean(images[:count]) == expected[:count]).all()
    assert sizes == [GPU_BATCH] * 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resize": "crop"}, "crop"),
        ({"classes": "clean,dirty"}, "classes"),
        ({"image_size": "64"}, "64"),
        ({"image_size": "many"}, "inputs"),
        ({"target": "tpu"}, "tpu"),
        (None, "precision, target"),
    ],
)
def test_metadata_of_another_kind(tmp_path: Path, change: dict[str, str] | None, named: str) -> None:
    pair = write_pair(tmp_path)
    changed = {f"dirtycar.{key}": value for key, value in (change or {}).items()}
    facts = {"dirtycar.model": "x"} if change is None else METADATA.properties() | changed
    write_model(pair.model, brightness(32), facts)
    with pytest.raises(ModelError, match=rf"best\.onnx.*{named}"):
        Predictor(pair.model)


def test_wrong_signature(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])
    p_clean = helper.make_tensor_value_info("p_clean", TensorProto.FLOAT, ["N", 3, 32, 32])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["p_clean"])], "relu", [image], [p_clean])
    write_model(pair.model, graph, METADATA.properties())
    with pytest.raises(ModelError, match=r"best\.onnx"):
        Predictor(pair.model)


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    whole = pair.model.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"not a model at all"):
        pair.model.write_bytes(damaged)
        with pytest.raises(ModelError):
            Predictor(pair.model)
    pair.model.unlink()
    with pytest.raises(ModelError, match=r"best\.onnx"):
        Predictor(pair.model)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"T_clean": 0.9}', '{"T_clean": "0.9", "T_low": null, "certified": true}',
     '{"T_clean": 1.5, "T_low": null, "certified": true}', '{"T_clean": NaN, "T_low": null, "certified": true}',
     '{"T_clean": 0.5, "T_low": 0.6, "certified": true}', '{"T_clean": true, "T_low": null, "certified": true}',
     '{"T_clean": 0.5, "T_low": null, "certified": "yes"}'],
)  # fmt: skip
def test_unusable_thresholds_name_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "threshold.json"
    path.write_text(content)
    with pytest.raises(ThresholdError, match=r"threshold\.json"):
        read_threshold(path)


def test_the_rule() -> None:
    rule = Rule(0.9, 0.4)
    assert [rule.decide(p) for p in (1.0, 0.9, 0.899999, 0.4, 0.399999, 0.0)] == [
        "clean", "clean", "uncertain", "uncertain", "dirty", "dirty"]  # fmt: skip
    assert Rule(0.9).decide(0.899999) == "dirty"
    assert rule.decide(float("nan")) == "dirty"


def settings(pair: tuple[Path, Path], **environ: str) -> Settings:
    return Settings.from_env({"MODEL_PATH": str(pair[0]), **environ})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"IMGSZ": "224"}, "IMGSZ=224"),
        ({"REQUIRE_GPU": "1"}, "REQUIRE_GPU=1"),
        ({"REQUIRE_CERTIFIED": "1"}, "REQUIRE_CERTIFIED=1"),
        ({"T_LOW": "0.9"}, "T_LOW"),
    ],
)
def test_settings_that_the_pair_cannot_meet(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    pair = write_pair(tmp_path, certified=False)
    with pytest.raises((ModelError, ThresholdError), match=message):
        load(settings(pair, **environ), *pair)


@pytest.mark.parametrize("name", ["THRESH", "T_HIGH"])
def test_a_threshold_from_the_environment_is_not_certified(tmp_path: Path, name: str) -> None:
    pair = write_pair(tmp_path, t_clean=0.75)
    for same in ({}, {"T_LOW": "0.2"}, {name: "0.75"}):
        assert load(settings(pair, REQUIRE_CERTIFIED="1", **same), *pair).certified
    assert not load(settings(pair, **{name: "0.7"}), *pair).certified
    with pytest.raises(ModelError, match=rf"{name}=0\.7"):
        load(settings(pair, REQUIRE_CERTIFIED="1", **{name: "0.7"}), *pair)


@pytest.mark.parametrize(("on_gpu", "expected"), [(False, (4, 4)), (True, (5, 1))])
def test_concurrency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, expected: tuple[int, int]) -> None:
    pair = write_pair(tmp_path)
    served = load(settings(pair), *pair)
    monkeypatch.setattr(Predictor, "on_gpu", on_gpu)
    assert served.concurrency(4) == expected


@pytest.mark.parametrize(
    ("white", "told"), [(255, None), (253, None), (240, "golden image"), (0, "golden image 0 has p_clean inf")]
)
def test_a_model_that_does_not_give_its_golden_answers(tmp_path: Path, white: float, told: str | None) -> None:
    """White is what p_clean is divided by: that stands for a processor that computes something else."""
    pair = write_pair(tmp_path)
    graph = brightness(32)
    next(c for c in graph.initializer if c.name == "white").CopyFrom(
        helper.make_tensor("white", TensorProto.FLOAT, [], [float(white)])
    )
    write_model(pair.model, graph, properties(pair.threshold.read_text()))
    if told is None:
        for max_batch in ("1", "3", "16", "40"):
            assert load(settings(pair, MAX_BATCH=max_batch), *pair).max_batch == int(max_batch)
        return
    with pytest.raises(ModelError, match=told) as error:
        load(settings(pair), *pair)
    assert "CPUExecutionProvider" in str(error.value) and processor() in str(error.value)


def test_a_model_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = write_pair(tmp_path)

    def broken(self: Predictor, images: np.ndarray) -> np.ndarray:
        raise RuntimeError("no memory left on the device")

    monkeypatch.setattr(Predictor, "scores", broken)
    with pytest.raises(ModelError, match=r"best\.onnx.*no memory left"):
        load(settings(pair), *pair)


@pytest.mark.parametrize(
    ("environ", "rule"),
    [
        ({}, Rule(0.75, 0.25)),
        ({"THRESH": "0.6"}, Rule(0.6, 0.25)),
        ({"T_HIGH": "0.8", "T_LOW": "0.7"}, Rule(0.8, 0.7)),
        ({"T_LOW": "0"}, Rule(0.75, 0.0)),
    ],
)
def test_overrides(tmp_path: Path, environ: dict[str, str], rule: Rule) -> None:
    pair = write_pair(tmp_path, t_clean=0.75, t_low=0.25)
    chosen = settings(pair, **environ)
    assert load(chosen, *pair).rule == rule and set(chosen.override) == set(environ)
