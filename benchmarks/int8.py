"""What ways of quantising cost in ranking: `python -m benchmarks.int8 [best.pt]`, on the val photos.

For each way: the AUC lost against fp32 with its 95 % interval (DeLong, paired), the rank correlation with fp32, and the
noise of the logits, as a share of their standard deviation. Not for choosing: that is the convert stage's, on train.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from serving.model.predictor import Metadata
from serving.photo.decode import RESIZE_RULE
from stages.common.base.params import Data, load, strict
from stages.common.base.photos import CLEAN, usable_photos
from stages.common.model import Checkpoint
from stages.common.pixels.photo_set import PhotoSet
from stages.convert.__main__ import calibration_photos, contents
from stages.convert.candidates import compare
from stages.convert.candidates import load as load_network
from stages.convert.graph import outside_layers, to_onnx
from stages.convert.precision import Batches, depthwise_weights


@strict
class Params:
    """What this reads of params.yaml."""

    data: Data


def ways(graph: onnx.GraphProto) -> dict[str, dict[str, Any]]:
    """Arguments of `quantize_static`, by name."""
    layers = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    depthwise = {"TensorQuantOverrides": {x: [{"axis": 0, "reduce_range": False}] for x in depthwise_weights(graph)}}
    return {
        "7-bit weights": {},
        "7-bit, depthwise 8-bit (as convert)": {"extra_options": depthwise},
        "  and ranges by percentile 99.99": {
            "extra_options": depthwise | {"CalibPercentile": 99.99}, "calibrate_method": CalibrationMethod.Percentile,
        },
        "  and ranges by entropy": {"extra_options": depthwise, "calibrate_method": CalibrationMethod.Entropy},
        "  and first layer in float": {"extra_options": depthwise, "nodes_to_exclude": layers[:1]},
        "  and last layer in float": {"extra_options": depthwise, "nodes_to_exclude": layers[-1:]},
        "8-bit weights (overflow without VNNI)": {"reduce_range": False},
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    data = load(Params).data
    checkpoint = Checkpoint.load(Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/best.pt"))
    size, root = checkpoint.img_size, Path(data.root)
    metadata = Metadata(checkpoint.model, "int8", "cpu", str(size), RESIZE_RULE, "dirty,clean", "none", "none")
    photos = PhotoSet(data, usable_photos(root, "val"), size)
    chosen = PhotoSet(data, calibration_photos(usable_photos(root, "train"), 128), size)
    images, is_clean = list(chosen.batches()), photos.labels == CLEAN
    fp32 = to_onnx(checkpoint)
    reference = photos.outputs(load_network(contents(fp32, metadata)).run)
    print(f"{checkpoint.model} at {size}, {is_clean.sum()} clean and {(~is_clean).sum()} dirty val photos")
    print(f"{'':40}{'AUC lost':>10}{'low':>10}{'high':>10}{'rank corr.':>12}{'noise':>8}")
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder, name)) for name in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(fp32, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared)
        for name, options in ways(graph.graph).items():
            excluded = [*outside_layers(graph), *options.pop("nodes_to_exclude", [])]
            arguments = {"per_channel": True, "reduce_range": True, "activation_type": QuantType.QUInt8} | options
            quantize_static(
                prepared, target, Batches(images), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8,
                nodes_to_exclude=excluded, **arguments,
            )  # fmt: skip
            logit = photos.outputs(load_network(contents(onnx.load(target), metadata)).run)
            found = compare(is_clean, reference, logit, 0.002)
            noise = (reference - np.polyval(np.polyfit(logit, reference, 1), logit)).std() / reference.std()
            loss = found.auc_loss
            print(
                f"{name:40}{loss.value:10.4f}{loss.low:10.4f}{loss.high:10.4f}{found.rank_correlation:12.4f}{noise:8.3f}"
            )


if __name__ == "__main__":
    main()
