"""Export: one file with all in it, and not one verdict changed."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from serving.inference.model import golden
from serving.inference.model.predictor import Network, Predictor
from stages.common.base.errors import StageError
from stages.common.base.files import sha256
from stages.common.calibration import Calibration
from stages.export import __main__ as export
from tests.support.workspace import SMALL_MODEL, Workspace


def test_the_file_keeps_its_contract(pipeline: Workspace) -> None:
    artifacts = pipeline.folder / "artifacts"
    model = onnx.load(artifacts / "best.onnx")
    (image,), (p_clean, *_) = model.graph.input, model.graph.output
    assert image.name == "image" and image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:] == [64, 64, 3]
    assert p_clean.name == "p_clean" and p_clean.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    predictor, network = Predictor(artifacts / "best.onnx"), Network(artifacts / "network.onnx")
    assert predictor.metadata == network.metadata and predictor.metadata.model == SMALL_MODEL
    assert predictor.threshold.sha256 == sha256(artifacts / "threshold.json")


def test_golden_answers_are_those_of_the_file(pipeline: Workspace) -> None:
    predictor = Predictor(pipeline.folder / "artifacts/best.onnx")
    told = predictor.golden
    said = predictor.p_clean(golden.images(told.seeds, predictor.image_size))
    assert len(told.seeds) > 0 and np.abs(said - told.p_clean).max() < 1e-4


def test_the_same_inputs_give_the_same_file(copy: Workspace) -> None:
    names = ("artifacts/best.onnx", "reports/export.json")
    before = [sha256(Path(name)) for name in names]
    export.main()
    assert before == [sha256(Path(name)) for name in names]


def test_predictions_and_the_served_file_say_the_same(pipeline: Workspace) -> None:
    report = json.loads((pipeline.folder / "reports/export.json").read_text())
    for split in ("val", "test"):
        assert report[split]["flips"] == 0 and report[split]["max_abs_difference"] < 1e-6
    assert report["sha256"] == sha256(pipeline.folder / "artifacts/best.onnx")


def test_a_planted_flip_stops_it(copy: Workspace) -> None:
    """As small as can be: a threshold between what was certified of a photo and what is served."""
    path = Path("artifacts/predictions/test.csv")
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    threshold = json.loads(Path("artifacts/threshold.json").read_text())
    told = float(rows[0][3])
    rows[0][3] = str(told - 2e-7)
    Path("artifacts/threshold.json").write_text(json.dumps(threshold | {"T_clean": told - 1e-7, "T_low": None}))
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    before = sha256(Path("artifacts/best.onnx"))
    with pytest.raises(StageError, match=rf"{rows[0][0]}.*1 verdict"):
        export.main()
    assert sha256(Path("artifacts/best.onnx")) == before


def test_another_p_clean_or_other_photos_stop_it(copy: Workspace) -> None:
    calibration = json.loads(Path("artifacts/calibration.json").read_text())
    Path("artifacts/calibration.json").write_text(json.dumps(calibration | {"offset": calibration["offset"] + 1e-3}))
    with pytest.raises(StageError, match="would say"):
        export.main()
    Path("artifacts/calibration.json").write_text(json.dumps(calibration))
    gone = next(copy.data.glob("val/clean/*"))
    gone.unlink()
    with pytest.raises(StageError, match=gone.name):
        export.main()


def test_calibration_in_the_graph_is_eval_s_to_the_bit(tmp_path: Path, pipeline: Workspace) -> None:
    network_file = pipeline.folder / "artifacts/network.onnx"
    texts = Predictor(pipeline.folder / "artifacts/best.onnx").properties
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    logit = Network(network_file).run(images).astype(np.float64)
    for calibration in (Calibration(1.37, -0.2), Calibration(300.0, 5.0), Calibration(1e-3, 40.0)):
        path = tmp_path / "best.onnx"
        path.write_bytes(export.bundle(onnx.load(network_file), calibration, texts))
        assert (Predictor(path).p_clean(images) == calibration.p_clean(logit)).all()
