"""The map that a network gives of itself: its mean is the logit, and it changes nothing for who does not ask for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from serving.inference.model.metadata import MAP
from serving.inference.model.predictor import Network, Predictor
from stages.common.calibration import Calibration
from stages.convert.cam import add_map
from stages.convert.precision import to_fp16, to_int8
from stages.export.__main__ import bundle
from tests.support.networks import exported
from tests.support.onnx_models import METADATA, properties

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)


def loaded(model: onnx.ModelProto, path: Path) -> Network:
    helper.set_model_props(model, METADATA.properties() | {"dirtycar.image_size": "64"})
    path.write_bytes(model.SerializeToString())
    return Network(path, threads=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_its_mean_is_the_logit_and_no_bit_of_that_changes(tmp_path: Path, precision: str) -> None:
    """In float32 to rounding; in fewer bits up to what the last layer rounds."""
    make = {"fp32": lambda model: model, "fp16": to_fp16, "int8": lambda model: to_int8(model, [IMAGES])}[precision]
    model = make(exported())
    before, after = loaded(model, tmp_path / "a.onnx"), loaded(add_map(model, exported()), tmp_path / "b.onnx")
    assert after.gives_map and not before.gives_map
    logits = after.run(IMAGES)
    assert (before.run(IMAGES).view(np.int32) == logits.view(np.int32)).all()
    found = after.map(IMAGES)
    assert found.shape == (12, 2, 2) and found.dtype == np.float32
    near = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1}[precision]
    assert np.abs(found.mean((1, 2)) - logits).max() <= near * max(1.0, float(np.abs(logits).max()))


def test_calibrated_its_mean_is_the_log_odds_of_p_clean(tmp_path: Path) -> None:
    network = add_map(exported(), exported())
    decision = '{"T_clean": 0.5, "T_low": null, "certified": true, "target_precision_clean": 0.95}'
    texts = properties(decision, 64, replace(METADATA, image_size="64"))
    (tmp_path / "best.onnx").write_bytes(bundle(network, Calibration(1.7, -0.4), texts))
    predictor = Predictor(tmp_path / "best.onnx", threads=1)
    mean = predictor.map(IMAGES).mean((1, 2)).astype(np.float64)
    assert np.allclose(1 / (1 + np.exp(-mean)), predictor.p_clean(IMAGES), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto"])
def test_a_network_that_is_not_linear_after_its_pool_has_none(name: str) -> None:
    network = exported(name)
    assert MAP not in [output.name for output in add_map(network, network).graph.output]
