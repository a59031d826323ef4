"""The network with its calibration in one graph, and everything a service must know in its metadata."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.common.calibration import Calibration


def bundle(network: onnx.ModelProto, calibration: Calibration, properties: Mapping[str, str]) -> bytes:
    """The file: `image` -> `p_clean` instead of `logit`, with these metadata properties besides the network's own.

    The calibration is computed in float64 and rounded once, as the eval stage does: then p_clean is the same number.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    constants = {"calibration_scale": calibration.scale, "calibration_offset": calibration.offset}
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    graph.node.extend([
        helper.make_node("Cast", ["logit"], ["logit_64"], "calibration_cast", to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["logit_64", "calibration_scale"], ["scaled"], "calibration_mul"),
        helper.make_node("Add", ["scaled", "calibration_offset"], ["calibrated"], "calibration_add"),
        helper.make_node("Sigmoid", ["calibrated"], ["p_clean_64"], "calibration_sigmoid"),
        helper.make_node("Cast", ["p_clean_64"], ["p_clean"], "calibration_round", to=TensorProto.FLOAT),
    ])  # fmt: skip
    graph.output[0].name = "p_clean"
    onnx.checker.check_model(model, full_check=True)
    own = {entry.key: entry.value for entry in network.metadata_props}
    helper.set_model_props(model, own | dict(properties))
    content: bytes = model.SerializeToString(deterministic=True)
    return content
