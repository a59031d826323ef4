"""Export: the file's contract, its repeatability, the gate, and every model named in the documentation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, SMALL_MODEL, Workspace

from serving.image import decode
from serving.predictor import ModelError, Predictor
from stages.common.model import Checkpoint, create
from stages.common.reports import sha256
from stages.eval.calibration import Calibration
from stages.export import __main__ as export
from stages.export.graph import Served, describe, to_onnx
from stages.export.precision import to_fp16, to_int8


def small_checkpoint(name: str = SMALL_MODEL, size: int = 64) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(name, size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "v", 1, dict(create(name).state_dict()))


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["p_clean"], {"image": images})[0]


def test_the_file_keeps_its_contract(pipeline: Workspace) -> None:
    model = onnx.load(pipeline.folder / "artifacts/best.onnx")
    (image,), (p_clean,) = model.graph.input, model.graph.output
    assert image.name == "image" and image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:] == [64, 64, 3]
    assert p_clean.name == "p_clean" and p_clean.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    found = {entry.key: entry.value for entry in model.metadata_props}
    artifacts = pipeline.folder / "artifacts"
    assert found["dirtycar.threshold_sha256"] == sha256(artifacts / "threshold.json")
    assert found["dirtycar.checkpoint_sha256"] == sha256(artifacts / "best.pt")
    split_check = json.loads((pipeline.folder / "reports/split_check.json").read_text())
    assert found["dirtycar.data_version"] == split_check["data_version"]
    assert found["dirtycar.model"] == SMALL_MODEL and found["dirtycar.classes"] == "dirty,clean"


def test_the_file_holds_no_path_of_this_machine(pipeline: Workspace) -> None:
    content = (pipeline.folder / "artifacts/best.onnx").read_bytes()
    for path in (str(ROOT), str(pipeline.folder), torch.__path__[0], "stack_trace"):
        assert path.encode() not in content


def test_the_same_inputs_give_the_same_file(pipeline: Workspace) -> None:
    before = {name: sha256(pipeline.folder / name) for name in ("artifacts/best.onnx", "reports/export.json")}
    pipeline.must("export")
    assert before == {name: sha256(pipeline.folder / name) for name in before}


def test_the_gate_is_reported_for_each_candidate(pipeline: Workspace) -> None:
    report = json.loads((pipeline.folder / "reports/export.json").read_text())
    assert next(iter(report["candidates"])) == "int8"
    chosen = report["candidates"][report["precision"]]
    assert chosen["passed"] and chosen["flip_share"] <= 0.005
    assert report["size_bytes"] == (pipeline.folder / "artifacts/best.onnx").stat().st_size
    if report["precision"] == "fp32":
        assert not report["candidates"]["int8"]["passed"] and chosen["max_abs_difference"] < 1e-4


def test_a_pair_that_does_not_match_is_refused(pipeline: Workspace, tmp_path: Path) -> None:
    other = tmp_path / "threshold.json"
    threshold = json.loads((pipeline.folder / "artifacts/threshold.json").read_text())
    other.write_text(json.dumps(threshold | {"T_clean": 0.0, "T_low": None}))
    with pytest.raises(ModelError, match="exported for another threshold"):
        Predictor(pipeline.folder / "artifacts/best.onnx", other)


def test_an_explicit_precision_that_fails_the_gate_fails_the_stage(pipeline: Workspace, tmp_path: Path) -> None:
    shutil.copytree(pipeline.folder, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    workspace.set(**{"export.precision": "int8", "export.max_flip_share": 0.0})
    # As eval would have left it for a model that thinks otherwise: every verdict is another.
    predictions = workspace.folder / "artifacts/predictions/val.csv"
    lines = predictions.read_text().splitlines()
    flipped = [lines[0], *(line.rsplit(",", 1)[0] + f",{1 - float(line.rsplit(',', 1)[1])}" for line in lines[1:])]
    predictions.write_text("\n".join(flipped) + "\n")
    before = sha256(workspace.folder / "artifacts/best.onnx")
    workspace.refuses("export", "no candidate passes the gate", "int8")
    assert sha256(workspace.folder / "artifacts/best.onnx") == before


def test_a_candidate_that_cannot_be_loaded_gives_way_to_the_next(
    pipeline: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pipeline.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    broken = onnx.helper.make_node("Conv", ["image"], ["nothing"])
    real = export.build

    def build(precision: str, fp32: onnx.ModelProto, *rest: Any) -> onnx.ModelProto:
        graph = onnx.ModelProto()
        graph.CopyFrom(real("fp32", fp32, *rest))
        if precision == "int8":
            graph.graph.node.append(broken)
        return graph

    monkeypatch.setattr(export, "build", build)
    export.main()
    report = json.loads(Path("reports/export.json").read_text())
    assert report["precision"] == "fp32" and "not a usable ONNX model" in report["candidates"]["int8"]["error"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 64), ("efficientnet_b0", 64), ("convnext_tiny", 64), ("tf_efficientnet_lite0", 64)],
)
def test_onnx_agrees_with_torch_on_real_photos(name: str, size: int) -> None:
    calibration = Calibration(1.3, -0.2)
    checkpoint = small_checkpoint(name, size)
    served = Served(checkpoint, calibration).eval()
    from conftest import jpeg

    rng = np.random.default_rng(0)
    images = np.stack([decode(jpeg(rng, bool(i % 2)), size) for i in range(5)])
    with torch.inference_mode():
        expected = served(torch.from_numpy(images)).numpy()
    model = to_onnx(checkpoint, calibration)
    for count in (1, 5):
        assert np.abs(run(model, images[:count]) - expected[:count]).max() < 1e-5


def test_int8_and_fp16_are_smaller_and_close() -> None:
    checkpoint = small_checkpoint("resnet18")
    model = to_onnx(checkpoint, Calibration(1.0, 0.0))
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    expected = run(model, images)
    for smaller, factor in ((to_int8(model, iter([images])), 3.5), (to_fp16(model), 1.9)):
        assert np.abs(run(smaller, images) - expected).max() < 0.05
        assert len(model.SerializeToString()) / len(smaller.SerializeToString()) > factor


def test_the_metadata_goes_in_and_the_graph_stays(pipeline: Workspace) -> None:
    predictor = Predictor(pipeline.folder / "artifacts/best.onnx", pipeline.folder / "artifacts/threshold.json")
    model = onnx.load(pipeline.folder / "artifacts/best.onnx")
    again = onnx.load_from_string(describe(model, predictor.metadata))
    assert again.graph == model.graph
    assert {entry.key for entry in again.metadata_props} == {entry.key for entry in model.metadata_props}
