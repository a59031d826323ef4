"""Whether a photo shows a car: a second output of the network, `distance`, from features that know more than cars.

The features are those of a frozen network pretrained on ImageNet, always the packaged one, whatever `model` is trained:
a network that only ever saw clean and dirty cars tells cars from cats no better than by chance. `distance` is
1 - the mean cosine similarity to the NEIGHBOURS nearest train photos (Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022). On real photos that beat Mahalanobis distances, raw or of normalised features, and
the probability of ImageNet's vehicles: benchmarks/results/cars.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from serving.model.predictor import DISTANCE
from stages.common.base.paths import REFERENCE
from stages.common.pixels.photo_set import PhotoSet
from stages.convert.graph import export

NAME = "tf_efficientnet_lite0"
SIDE = 112  # pixels that the features need at least; of larger photos, blocks of pixels are averaged
NEIGHBOURS = 10
GALLERY = 1024  # train photos in the file at most: 256 lose one of a hundred refusals
_FEATURES, _PREFIX = "features", "car_check/"

Quantise = Callable[[onnx.ModelProto], onnx.ModelProto]


class Features(nn.Module):
    """uint8 RGB `[N, S, S, 3]` -> features `[N, 320]` of the last block, short of ImageNet's classes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = timm.create_model(NAME, num_classes=0)
        self.network.conv_head = self.network.bn2 = nn.Identity()
        self.network.load_state_dict(load_file(REFERENCE))
        self.network.conv_stem = _averaging(self.network.get_parameter("conv_stem.weight"), max(1, size // SIDE))

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.network(image.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return features


def _averaging(stem: Tensor, side: int) -> nn.Module:
    """The first layer, 3 x 3 with stride 2, after averaging blocks of `side` x `side` pixels, as one convolution."""
    layer = nn.Conv2d(3, len(stem), 3 * side, 2 * side, bias=False)
    layer.weight = nn.Parameter(stem.repeat_interleave(side, 2).repeat_interleave(side, 3) / side**2)
    return nn.Sequential(nn.ZeroPad2d((0, side, 0, side)), layer)  # as TensorFlow pads an even side


def add_distance(network: onnx.ModelProto, gallery: PhotoSet, quantise: Quantise) -> onnx.ModelProto:
    """The network with its second output. `gallery`: train photos of cars; `quantise`: into the network's precision."""
    example = torch.zeros(2, gallery.size, gallery.size, 3, dtype=torch.uint8)
    features = quantise(export(Features(gallery.size).eval(), example, _FEATURES))
    session = ort.InferenceSession(features.SerializeToString(), providers=["CPUExecutionProvider"])
    known = gallery.outputs(lambda images: session.run([_FEATURES], {"image": images})[0])
    joined = _joined(network, features)
    _append_distance(joined.graph, known / np.linalg.norm(known, axis=1, keepdims=True))
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _joined(network: onnx.ModelProto, features: onnx.ModelProto) -> onnx.ModelProto:
    """Both in one graph, on one input; the features are no output."""
    joined = onnx.ModelProto()
    joined.CopyFrom(network)
    other = onnx.compose.add_prefix(features, _PREFIX, rename_inputs=False)
    for part in ("node", "initializer", "value_info"):
        getattr(joined.graph, part).extend(getattr(other.graph, part))
    return joined


def _append_distance(graph: onnx.GraphProto, known: NDArray[np.float64]) -> None:
    """`known`: unit vectors `[G, 320]`, kept in 16 bits."""
    constants = {
        "gallery_16": known.T.astype(np.float16), "one": np.float32(1), "tiny": np.float32(1e-6), "axis": np.array([1]),
        "count": np.array([min(NEIGHBOURS, len(known))]),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), f"{DISTANCE}/{k}") for k, v in constants.items())

    def add(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        names = [[f"{DISTANCE}/{x}" if x != _PREFIX + _FEATURES else x for x in part] for part in (inputs, outputs)]
        graph.node.append(helper.make_node(operator, inputs=names[0], outputs=names[1], name=names[1][0], **attributes))

    features = _PREFIX + _FEATURES
    add("ReduceL2", [features, "axis"], ["length"], keepdims=1)
    add("Max", ["length", "tiny"], ["positive"])
    add("Div", [features, "positive"], ["unit"])
    add("Cast", ["gallery_16"], ["gallery"], to=TensorProto.FLOAT)
    add("MatMul", ["unit", "gallery"], ["similarity"])
    add("TopK", ["similarity", "count"], ["nearest", "places"], axis=1)
    add("ReduceMean", ["nearest", "axis"], ["mean"], keepdims=0)
    graph.node.append(helper.make_node("Sub", [f"{DISTANCE}/one", f"{DISTANCE}/mean"], [DISTANCE], DISTANCE))
    graph.output.append(helper.make_tensor_value_info(DISTANCE, TensorProto.FLOAT, ["N"]))
