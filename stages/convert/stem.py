"""The first layer on blocks of pixels instead of single ones: the same sums, on more channels at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def on_pixel_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """An 8-bit model with its first convolution, stride s over RGB, made one of stride 1 over blocks of s x s pixels.

    Kernels for integers are made for many channels, and RGB has three; blocks of 2 x 2 pixels have 12. That takes a
    tenth off a whole resnet50. The weights are the same ones, moved, with zeros where a block reaches beyond the
    kernel: every answer stays the same to the bit. A model with another kind of first layer, or for images that are no
    multiple of s, is left as it is.

    After Ying et al., "Image Classification at Supercomputer Scale" (2018), who did so for TPUs.
    """
    blocked = onnx.shape_inference.infer_shapes(model)
    graph = blocked.graph
    source = {output: node for node in graph.node for output in node.output}
    conv = next((node for node in graph.node if node.op_type == "Conv"), None)
    if conv is None or any(name not in source for name in conv.input[:2]):  # none, or left in float32
        return model
    pixels, weights = (source[name] for name in conv.input[:2])  # as integers, by their DequantizeLinear
    quantise = source[pixels.input[0]]
    uses = Counter(name for node in graph.node for name in node.input)
    if any(uses[name] > 1 for name in (*conv.input[:2], pixels.input[0], weights.input[0])):  # by several branches
        return model
    tensor = next(tensor for tensor in graph.initializer if tensor.name == weights.input[0])
    shape = next(_shape(value) for value in graph.value_info if value.name == conv.input[0])
    found = {item.name: helper.get_attribute_value(item) for item in conv.attribute}
    if not _fits(shape, found):
        return model
    kernel, stride, before = numpy_helper.to_array(tensor), found["strides"][0], found["pads"][0]
    moved = _moved(kernel, stride, -before % stride)
    outputs = (shape[2] + before + found["pads"][2] - kernel.shape[2]) // stride + 1
    first = -(-before // stride)  # blocks of zeros before the image, and after it
    last = outputs - 1 + moved.shape[2] - first - shape[2] // stride
    tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    layer = helper.make_node(
        "Conv", conv.input, conv.output, conv.name,
        kernel_shape=moved.shape[2:], strides=[1, 1], pads=[first, first, last, last],
    )  # fmt: skip
    conv.CopyFrom(layer)
    blocks = helper.make_node("SpaceToDepth", quantise.input[:1], ["pixel_blocks"], "pixel_blocks", blocksize=stride)
    quantise.input[0] = "pixel_blocks"
    graph.node.insert(list(graph.node).index(quantise), blocks)
    del graph.value_info[:]  # shapes that no longer hold
    return blocked


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _fits(shape: list[int], found: dict[str, Any]) -> bool:
    """Whether a convolution is over a square RGB image of whole blocks, and alike in both directions."""
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not {"strides", "pads"} <= set(found):
        return False
    stride, pads = found["strides"], found["pads"]
    alike = all(x == y for x, y in (stride, pads[:2], pads[2:], found["kernel_shape"]))
    return alike and stride[0] > 1 and shape[2] % stride[0] == 0 and set(found.get("dilations", [1])) == {1}


def _moved(kernel: NDArray[np.int8], size: int, lead: int) -> NDArray[np.int8]:
    """A kernel `[O, C, k, k]` with `lead` zeros before it, for blocks in SpaceToDepth's order `[O, size² C, b, b]`."""
    fill = (lead, -(kernel.shape[2] + lead) % size)
    kernel = np.pad(kernel, ((0, 0), (0, 0), fill, fill))
    out, channels, full, _ = kernel.shape
    parts = kernel.reshape(out, channels, full // size, size, full // size, size).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(parts.reshape(out, -1, full // size, full // size))
