"""Convert: the candidates, how they are judged, and that the chosen network is the checkpoint's."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from serving.inference.model.predictor import Network
from serving.inference.photo.decode import decode
from stages.common.base.errors import StageError
from stages.common.base.files import sha256
from stages.common.network.model import Checkpoint
from stages.convert import __main__ as convert
from stages.convert.candidates import compare, judge, placements
from stages.convert.graph import Logit, to_onnx
from stages.convert.precision import to_fp16, to_int8
from stages.eval import __main__ as eval_stage
from stages.export import __main__ as export_stage
from stages.threshold import __main__ as threshold_stage
from tests.support.networks import SMALL, checkpoint, exported, run
from tests.support.workspace import ROOT, SMALL_MODEL, Workspace, jpeg


@pytest.fixture(scope="module")
def fp32(pipeline: Workspace) -> onnx.ModelProto:
    """The checkpoint of the whole run, exported once."""
    checkpoint = Checkpoint.load(pipeline.folder / "artifacts/best.pt")
    return to_onnx(Logit(checkpoint), checkpoint)


@pytest.fixture
def copy(copy: Workspace, fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the whole run, whose network is not exported again."""
    monkeypatch.setattr(convert, "to_onnx", lambda network, checkpoint: fp32)
    return copy


def on_logits(change: Callable[[onnx.GraphProto], None]) -> Callable[..., onnx.ModelProto]:
    """A conversion that is fp32, changed in the end."""

    def build(precision: str, fp32: onnx.ModelProto, *rest: object) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(fp32)
        if precision == "int8":
            change(model.graph)
        return model

    return build


def last(graph: onnx.GraphProto, operator: str, value: float) -> None:
    """Put one more operation on the logits."""
    producer = next(node for node in graph.node if node.output[0] == "logit")
    producer.output[0] = "before"
    graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), "value"))
    graph.node.append(helper.make_node(operator, ["before", "value"], ["logit"]))


def report() -> dict[str, dict[str, object]]:
    return json.loads(Path("reports/convert.json").read_text())


def test_a_candidate_that_ranks_worse_is_refused(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("artifacts/train_photos.csv").open(newline="") as file:
        half = [row["path"] for row in csv.DictReader(file)][::2]  # the few that are held out rank at random
    Path("artifacts/holdout.csv").write_text("\n".join(["path", *half]) + "\n")
    monkeypatch.setattr(convert, "build", on_logits(lambda graph: last(graph, "Mul", -1.0)))
    convert.main()
    found = report()
    assert found["precision"] == "fp32" and not found["candidates"]["int8"]["passed"]
    assert found["candidates"]["int8"]["auc_loss"]["value"] > 0.002 > found["candidates"]["fp32"]["auc_loss"]["value"]
    assert Network(Path("artifacts/network.onnx")).metadata.precision == "fp32"
    copy.set(**{"convert.precision": "int8"})
    before = sha256(Path("artifacts/network.onnx"))
    with pytest.raises(StageError, match="int8 did not pass"):
        convert.main()
    assert sha256(Path("artifacts/network.onnx")) == before


def test_one_whose_logits_are_shifted_is_accepted_and_has_its_own_threshold(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {row["path"]: float(row["logit"]) for row in rows("val")}
    monkeypatch.setattr(convert, "build", on_logits(lambda graph: last(graph, "Add", 3.0)))
    convert.main()
    found = report()["candidates"]["int8"]
    assert found["taken"] and found["auc_loss"]["value"] == 0 and found["max_logit_difference"] > 2.9
    for stage in (eval_stage, threshold_stage, export_stage):
        stage.main()
    logit = {row["path"]: float(row["logit"]) for row in rows("val")}
    assert max(abs(logit[path] - before[path] - 3) for path in before) < 0.2
    calibration = json.loads(Path("artifacts/calibration.json").read_text())
    threshold = json.loads(Path("artifacts/threshold.json").read_text())["T_clean"]
    told = {row["path"]: float(row["p_clean"]) for row in rows("val")}
    for path, z in logit.items():
        assert told[path] == pytest.approx(expit(calibration["scale"] * z + calibration["offset"]), abs=1e-7)
    assert 0 <= threshold <= 1


def rows(split: str) -> list[dict[str, str]]:
    with Path(f"artifacts/predictions/{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda graph: last(graph, "Mul", float("nan")), "NaN or infinity for"),
        (lambda graph: last(graph, "Div", 0.0), "NaN or infinity for"),
        (lambda graph: last(graph, "NoOperator", 1.0), "not a usable ONNX model"),
    ],
    ids=["NaN", "infinity", "does not load"],
)
def test_one_without_answers_gives_way_to_the_next(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.GraphProto], None], why: str
) -> None:
    monkeypatch.setattr(convert, "build", on_logits(change))
    convert.main()
    found = report()
    assert found["precision"] == "fp32" and why in found["candidates"]["int8"]["why"]


@pytest.mark.parametrize("name", ["held out", "for calibration"])
def test_an_unreadable_photo_is_no_reason_for_another_precision(copy: Workspace, name: str) -> None:
    with Path("artifacts/holdout.csv").open(newline="") as file:
        held_out = {row["path"] for row in csv.DictReader(file)}
    copy.set(**{"data.cache": "none", "convert.calibration_photos": 1000})
    paths = [
        path
        for path in copy.data.rglob("train/*/*")
        if (str(path.relative_to(copy.data)) in held_out) == (name == "held out")
    ]
    paths[0].write_bytes(b"no photo")
    with pytest.raises(StageError, match=paths[0].name):
        convert.main()


def test_a_bug_is_no_reason_for_another_precision(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "contents", lambda model, metadata: model.nothing)
    with pytest.raises(AttributeError):
        convert.main()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no header"),
        ("path\n", "no .* photo to judge"),
        ("path\ntrain/clean/gone.jpg\n", "gone.jpg"),
        ("name\nx\n", "KeyError"),
    ],
)
def test_a_list_of_held_out_photos_that_is_damaged_or_stale(copy: Workspace, content: str, message: str) -> None:
    Path("artifacts/holdout.csv").write_text(content)
    with pytest.raises(StageError, match=rf"holdout\.csv.*{message}"):
        convert.main()


def test_the_report_has_the_candidates_side_by_side(pipeline: Workspace) -> None:
    found = json.loads((pipeline.folder / "reports/convert.json").read_text())
    assert list(found["candidates"]) == ["int8", "fp32"]
    assert [row["taken"] for row in found["candidates"].values()].count(True) == 1
    for row in found["candidates"].values():
        assert row["auc_loss"]["low"] <= row["auc_loss"]["value"] <= row["auc_loss"]["high"] and row["photos_per_s"] > 0
    fp32 = found["candidates"]["fp32"]
    assert fp32["max_logit_difference"] < 1e-3 and fp32["rank_correlation"] > 0.999


def test_the_network_says_what_it_was_made_of(pipeline: Workspace) -> None:
    network = Network(pipeline.folder / "artifacts/network.onnx")
    split_check = json.loads((pipeline.folder / "reports/split_check.json").read_text())
    assert network.metadata.data_version == split_check["train_version"] and network.metadata.model == SMALL_MODEL
    assert network.metadata.checkpoint_sha256 == sha256(pipeline.folder / "artifacts/best.pt")


def test_the_file_holds_no_path_of_this_machine(pipeline: Workspace) -> None:
    content = (pipeline.folder / "artifacts/network.onnx").read_bytes()
    for path in (str(ROOT), str(pipeline.folder), torch.__path__[0], "stack_trace"):
        assert path.encode() not in content


@pytest.mark.parametrize(
    "name",
    [
        SMALL,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet50", "efficientnet_b0", "convnext_tiny", "tf_efficientnet_lite0")
        ),
    ],
)
def test_onnx_agrees_with_torch_on_real_photos(rng: np.random.Generator, name: str) -> None:
    images = np.stack([decode(jpeg(rng, bool(i % 2)), 64) for i in range(5)])
    with torch.inference_mode():
        expected = Logit(checkpoint(name)).eval()(torch.from_numpy(images)).numpy()
    for count in (1, 5):
        apart = np.abs(run(exported(name), images[:count]) - expected[:count])
        assert apart.max() < 1e-4 * max(1, np.abs(expected).max())


def test_int8_and_fp16_are_smaller_and_close(rng: np.random.Generator) -> None:
    model = exported()
    images = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
    expected = run(model, images)
    for smaller, factor in ((to_int8(model, [images]), 3.5), (to_fp16(model), 1.9)):
        assert np.abs(run(smaller, images) - expected).max() < 0.2
        assert len(model.SerializeToString()) / len(smaller.SerializeToString()) > factor


def test_placements_have_the_auc_as_their_means(rng: np.random.Generator) -> None:
    is_clean, score = rng.random(200) < 0.7, rng.normal(size=200).round(1)  # with ties
    for part in placements(is_clean, score):
        assert part.mean() == pytest.approx(roc_auc_score(is_clean, score))


def test_the_interval_of_the_loss_holds_the_truth_as_often_as_it_says(rng: np.random.Generator) -> None:
    truth = norm.cdf(2 / np.sqrt(2)) - norm.cdf(2 / np.sqrt(2.5))
    held = 0
    for _ in range(400):
        is_clean = np.arange(200) < 140
        before = rng.normal(size=200) + 2 * is_clean
        after = before + rng.normal(0, 0.5, 200)
        found = compare(is_clean, before, after, 0.002).auc_loss
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_too_few_photos_are_said_with_how_many_it_takes(rng: np.random.Generator) -> None:
    is_clean = np.arange(60) < 40
    before = rng.normal(size=60) + 2 * is_clean
    after = before + rng.normal(0, 0.1, 60)
    loose = judge(is_clean, before, after, 0.002)
    assert loose.passed and loose.ranking.dirty_photos_needed > 20 and "cannot tell" in loose.why
    separable = judge(is_clean, before + 50 * is_clean, after + 50 * is_clean, 0.002)
    assert separable.passed and separable.ranking.dirty_photos_needed is None and "tells little" in separable.why
    assert not judge(is_clean, before, np.zeros(60), 0.002).passed


def sums(channels: int, group: int, kernel: int, limit: int) -> np.ndarray:
    """A convolution of the largest activations with the largest weights, per output; 1 is the right sum."""
    weights = np.full((channels, channels // group, kernel, kernel), limit, np.int8)
    total = 255 * limit * weights[0].size
    constants = {
        "w": weights, "w_scale": np.ones(channels, np.float32), "w_zero": np.zeros(channels, np.int8),
        "scale": np.float32(1), "zero": np.uint8(0), "y_scale": np.float32(total / 200),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["dw"], axis=0),
        helper.make_node("Conv", ["dq", "dw"], ["sum"], kernel_shape=[kernel] * 2, group=group),
        helper.make_node("QuantizeLinear", ["sum", "y_scale", "zero"], ["qy"]),
        helper.make_node("DequantizeLinear", ["qy", "y_scale", "zero"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, channels, 8, 8])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.full((1, channels, 8, 8), 255, np.float32)})[0] / total


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_no_kernel_overflows_on_this_processor(kernel: int) -> None:
    """Without VNNI, 8-bit weights would halve these sums in all but depthwise layers."""
    assert np.allclose(sums(32, 1, kernel, 64), 1)
    for channels in (19, 32):
        assert np.allclose(sums(channels, channels, kernel, 127), 1)


def test_depthwise_weights_alone_have_8_bits(rng: np.random.Generator, fp32: onnx.ModelProto) -> None:
    images = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    model = to_int8(fp32, [images])
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) == 4]
    largest = [
        (weight.shape[1], int(np.abs(weight.astype(int)).max())) for weight in weights if weight.dtype == np.int8
    ]
    assert {peak for channels, peak in largest if channels == 1} == {127}
    assert {peak for channels, peak in largest if channels > 1} == {64}
