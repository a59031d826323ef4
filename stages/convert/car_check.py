"""Whether a photo shows a car: a second output of the network, `distance`, from features that know more than cars.

The features are those of a frozen network pretrained on ImageNet, always the packaged one, whatever `model` is trained:
a network that only ever saw clean and dirty cars tells cars from cats no better than by chance. `distance` is
1 - the mean cosine similarity to the NEIGHBOURS nearest train photos (Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022). On real photos that beat Mahalanobis distances, raw or of normalised features, and
the probability of ImageNet's vehicles: benchmarks/results/cars.txt.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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


class Distance(nn.Module):
    """Features `[N, 320]` -> their distance from the gallery's, `[N]`."""

    def __init__(self, known: NDArray[np.float32]) -> None:
        """`known`: features of the gallery `[G, 320]`, kept in 16 bits."""
        super().__init__()
        self.known = nn.Buffer(F.normalize(torch.from_numpy(known)).T.half())

    def forward(self, features: Tensor) -> Tensor:
        unit = features / features.norm(dim=1, keepdim=True).clamp(min=1e-6)  # F.normalize exports six nodes more
        nearest = (unit @ self.known.float()).topk(min(NEIGHBOURS, self.known.shape[1])).values
        distance: Tensor = 1 - nearest.mean(1)
        return distance


def add_distance(network: onnx.ModelProto, gallery: PhotoSet, quantise: Quantise) -> onnx.ModelProto:
    """The network with its second output. `gallery`: train photos of cars; `quantise`: into the network's precision."""
    example = torch.zeros(2, gallery.size, gallery.size, 3, dtype=torch.uint8)
    features = quantise(export(Features(gallery.size).eval(), example, "image", "features"))
    session = ort.InferenceSession(features.SerializeToString(), providers=["CPUExecutionProvider"])
    known = gallery.outputs(lambda images: session.run(["features"], {"image": images})[0])
    distance = export(Distance(known.astype(np.float32)), torch.zeros(2, known.shape[1]), "features", DISTANCE)
    joined = onnx.ModelProto()
    joined.CopyFrom(network)
    for prefix, part in (("car_check/", features), (f"{DISTANCE}/", distance)):
        named = onnx.compose.add_prefix(part, prefix, rename_inputs=False, rename_outputs=False)
        for field in ("node", "initializer", "value_info"):
            getattr(joined.graph, field).extend(getattr(named.graph, field))
    joined.graph.output.extend(distance.graph.output)
    onnx.checker.check_model(joined, full_check=True)
    return joined
