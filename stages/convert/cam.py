"""Where in a photo the logit comes from, exactly: an output `map` of networks that pool features and then are linear.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. The mean of the map is the logit: in
float32 to rounding; in 8 bits up to the last layer's own rounding, of which the map has none. ONNX Runtime computes it
whether it is asked for or not, in 2 % of the network's time at 128 pixels; the logit keeps its bits.
"""

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.inference.model.metadata import MAP
from stages.convert.graph import only

_TOLERANCE = 1e-3  # of the logit, which is about 1 to 10


def add_map(network: onnx.ModelProto, fp32: onnx.ModelProto) -> onnx.ModelProto:
    """The network, in any precision, with its output `map`, float32 `[N, h, w]`; unchanged where there can be none.
    `fp32` is the same network in float32."""
    pool, original = _pool(network), _pool(fp32)
    layer = None if pool is None or original is None else _linear(fp32, original.output[0])
    if pool is None or layer is None:
        return network
    mapped = onnx.ModelProto()
    mapped.CopyFrom(network)
    graph, (weights, bias) = mapped.graph, layer
    constants = {"weights": weights.reshape(1, -1, 1, 1), "bias": bias, "axis": np.array([1])}
    graph.initializer.extend(numpy_helper.from_array(value, f"{MAP}/{name}") for name, value in constants.items())
    graph.node.extend([
        helper.make_node("Cast", [pool.input[0]], [f"{MAP}/features"], f"{MAP}/features", to=TensorProto.FLOAT),
        helper.make_node("Conv", [f"{MAP}/features", f"{MAP}/weights", f"{MAP}/bias"], [f"{MAP}/one"], f"{MAP}/one"),
        helper.make_node("Squeeze", [f"{MAP}/one", f"{MAP}/axis"], [MAP], MAP),
    ])  # fmt: skip
    graph.output.append(helper.make_tensor_value_info(MAP, TensorProto.FLOAT, ["N", "h", "w"]))
    return mapped


def _pool(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The last node before the logit that averages whole feature maps `[N, C, h, w]`, if any."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = None
    for node in only(model, "logit").graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            found = node if sorted(axes) in ([2, 3], [-2, -1]) else found
        elif node.op_type == "GlobalAveragePool":
            found = node
    return found


def _linear(fp32: onnx.ModelProto, pooled: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights `[C]` and bias `[1]` by which the logit follows from pooled features, or None where it does otherwise."""
    try:
        shaped = onnx.shape_inference.infer_shapes(fp32)
        head = onnx.utils.Extractor(shaped).extract_model([pooled, "image"], ["logit"])  # which has the batch's size
        session = ort.InferenceSession(head.SerializeToString(), providers=["CPUExecutionProvider"])
        shapes = {found.name: found.shape[1:] for found in session.get_inputs()}
        channels = shapes[pooled][0]

        def logits(features: NDArray[np.float32]) -> NDArray[np.float64]:
            images = np.zeros((len(features), *shapes["image"]), np.uint8)
            return np.asarray(session.run(["logit"], {pooled: features, "image": images})[0], np.float64)

        units = np.eye(channels, dtype=np.float32).reshape(channels, *shapes[pooled])
        bias = logits(np.zeros_like(units[:1]))
        weights = np.concatenate([logits(part) for part in np.array_split(units, -(-channels // 64))]) - bias
        probe = np.random.default_rng(0).uniform(0, 4, (8, channels)).astype(np.float32)
        expected = probe @ weights + bias
        off = np.abs(logits(probe.reshape(8, *shapes[pooled])) - expected).max()
        linear = off <= _TOLERANCE * (1 + np.abs(expected).max())
    except Exception:  # of the extractor, or ONNX Runtime: the pool feeds more than a last layer
        return None
    return (weights.astype(np.float32), bias.astype(np.float32)) if linear else None
