"""Whether a photo shows a car: a second output of the network, `distance`, from features that know more than cars.

The features are those of a frozen network pretrained on ImageNet, always the packaged one, whatever `model` is trained:
a network that only ever saw clean and dirty cars tells cars from cats no better than by chance. `distance` is
1 - the mean cosine similarity to the NEIGHBOURS nearest train photos (Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022). On real photos that beat Mahalanobis distances, raw or of normalised features, and
the probability of ImageNet's vehicles: benchmarks/results/cars.txt.

Where `model` is that very network, fine-tuned, its first stages serve both: a linear map, fitted by least squares,
makes of what they give what the frozen ones would. That refuses as much in half the time. Of larger images the frozen
network sees fewer pixels, and no such map refused as much.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from serving.inference.model.metadata import DISTANCE
from stages.common.base.paths import REFERENCE
from stages.common.network.model import clean_logit
from stages.convert.graph import Logit, export

NAME = "tf_efficientnet_lite0"
SHARED = 3  # stages, of its 7: with four, fewer other things are refused; with five, far fewer
SIDE = 112  # pixels that the features need at least; of larger photos, blocks of pixels are averaged
NEIGHBOURS = 10
GALLERY = 1024  # train photos in the file at most: 256 lose one of a hundred refusals
FEATURES = "features"  # an output of the network until the distance takes its place

Images = NDArray[np.uint8]


class Features(nn.Module):
    """uint8 RGB `[N, S, S, 3]` -> features `[N, 320]` of the last block, short of ImageNet's classes: `lower` are the
    stages that may be shared, `upper` the others."""

    def __init__(self, size: int) -> None:
        super().__init__()
        network: Any = timm.create_model(NAME, num_classes=0)
        network.conv_head = network.bn2 = nn.Identity()
        network.load_state_dict(load_file(REFERENCE))
        stem = _averaging(network.get_parameter("conv_stem.weight"), max(1, size // SIDE))
        self.lower = nn.Sequential(stem, network.bn1, *network.blocks[:SHARED])
        self.upper = nn.Sequential(*network.blocks[SHARED:], network.global_pool)

    def first_stages(self, image: Tensor) -> Tensor:
        """`[N, C, h, w]`."""
        stages: Tensor = self.lower(image.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return stages

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.upper(self.first_stages(image))
        return features


class Scores(nn.Module):
    """uint8 RGB `[N, S, S, 3]` -> the logit, `[N]`, and features, `[N, 320]`. `adapter`: makes of what the
    classifier's first stages give what the frozen ones would; without one, the two networks share nothing."""

    outputs: ClassVar[Sequence[str]] = ("logit", FEATURES)

    def __init__(self, logit: Logit, features: Features, adapter: nn.Module | None) -> None:
        super().__init__()
        self.logit, self.features, self.adapter = logit, features, adapter

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.adapter is None:
            return self.logit(image), self.features(image)
        network: Any = self.logit.network
        shared = first_stages(self.logit, image)
        last = network.bn2(network.conv_head(network.blocks[SHARED:](shared)))
        return clean_logit(network.forward_head(last)), self.features.upper(self.adapter(shared))


def add_features(logit: Logit, model: str, size: int, photos: Iterable[Images]) -> Scores:
    """A classifier of architecture `model` with features of images of `size` pixels. `photos`: batches to fit to."""
    features = Features(size).eval()
    shares = model == NAME and size < 2 * SIDE
    return Scores(logit, features, fit_adapter(logit.eval(), features, photos) if shares else None)


def first_stages(logit: Logit, image: Tensor) -> Tensor:
    """What a classifier of architecture NAME makes of images in its first stages, `[N, C, h, w]`."""
    network: Any = logit.network
    stages: Tensor = network.blocks[:SHARED](network.bn1(network.conv_stem(logit.normalise(image))))
    return stages


@torch.no_grad()  # not inference_mode: torch.export takes its parameters only by a detour, in twice the time
def fit_adapter(logit: Logit, features: Features, photos: Iterable[Images]) -> nn.Conv2d:
    """The linear map from the classifier's first stages to the frozen ones: least squares over all places of photos."""
    products: Any = 0
    for images in map(torch.from_numpy, photos):
        both = first_stages(logit, images), features.first_stages(images)
        given, wanted = (stages.movedim(1, -1).flatten(0, 2).double() for stages in both)
        given = F.pad(given, (0, 1), value=1.0)
        products = products + given.T @ torch.cat([given, wanted], 1)
    solution = torch.linalg.lstsq(products[:, : len(products)], products[:, len(products) :], driver="gelsd").solution
    adapter = nn.Conv2d(len(solution) - 1, solution.shape[1], 1)
    adapter.load_state_dict({"weight": solution[:-1].T[:, :, None, None], "bias": solution[-1]})
    return adapter


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


def add_distance(network: onnx.ModelProto, gallery: Iterable[Images]) -> onnx.ModelProto:
    """The network with a distance in place of its features. `gallery`: batches of train photos of cars."""
    session = ort.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    known = np.concatenate([session.run([FEATURES], {"image": images})[0] for images in gallery])
    distance = export(Distance(known), torch.zeros(2, known.shape[1]), FEATURES, [DISTANCE])
    named = onnx.compose.add_prefix(distance, f"{DISTANCE}/", rename_inputs=False, rename_outputs=False)
    joined = onnx.ModelProto()
    joined.CopyFrom(network)
    for field in ("node", "initializer", "value_info"):
        getattr(joined.graph, field).extend(getattr(named.graph, field))
    kept = [output for output in network.graph.output if output.name != FEATURES]
    del joined.graph.output[:]
    joined.graph.output.extend([*kept, *distance.graph.output])
    onnx.checker.check_model(joined, full_check=True)
    return joined
