"""Networks with random weights as ONNX graphs, each exported once for all tests: it takes seconds."""

import functools

import numpy as np
import onnx
import onnxruntime
import torch

from stages.common.network.model import Checkpoint, create
from stages.convert.graph import Logit, to_onnx

SMALL = "test_resnet"  # quick to export, with the layers that quantisation is about


def checkpoint(name: str, size: int = 64) -> Checkpoint:
    """Seeded random weights."""
    torch.manual_seed(0)
    return Checkpoint(name, size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "v", 1, dict(create(name).state_dict()))


@functools.cache
def exported(name: str = SMALL) -> onnx.ModelProto:
    """uint8 `[N, 64, 64, 3]` -> logit `[N]`; not to be changed."""
    return to_onnx(Logit(checkpoint(name)), checkpoint(name))


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The first output of a model with one input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]
