"""The checkpoint as an ONNX graph that takes the service's pixels and gives logits."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx
import torch
from torch import Tensor, nn

from stages.common.base.errors import StageError
from stages.common.network.model import Checkpoint, Normalise, clean_logit


class Logit(nn.Module):
    """uint8 RGB `[N, S, S, 3]` -> the logit of clean against dirty, float32 `[N]`."""

    outputs: ClassVar[Sequence[str]] = ("logit",)

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.normalise = Normalise(checkpoint.mean, checkpoint.std)
        self.network = checkpoint.network()

    def forward(self, image: Tensor) -> Tensor:
        return clean_logit(self.network(self.normalise(image)))


def to_onnx(network: Any, checkpoint: Checkpoint) -> onnx.ModelProto:
    """Export the checkpoint's Logit, perhaps with features, in float32 with a free batch size. Raises StageError for a
    network ONNX cannot express."""
    example = torch.zeros(2, checkpoint.img_size, checkpoint.img_size, 3, dtype=torch.uint8)
    try:
        return export(network.eval(), example, "image", network.outputs)
    except Exception as error:  # the exporter wraps anything
        raise StageError(f"{checkpoint.model} cannot be exported to ONNX: {error}") from error


def export(network: nn.Module, example: Tensor, source: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """A module from `source`, such as `example`, to `outputs`, for any N; what the exporter raises is its own."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.onnx.export(
            network, (example,), input_names=[source], output_names=outputs, dynamo=True, verbose=False,
            dynamic_shapes={source: {0: torch.export.Dim("N")}},
        )  # fmt: skip
    assert program is not None  # only without dynamo
    model: onnx.ModelProto = program.model_proto
    strip(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def strip(graph: onnx.GraphProto) -> None:
    """Remove what the exporter notes on every node: stack traces, and with them the paths of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""


def only(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """What leads from the images to one output, under the same names."""
    return onnx.utils.Extractor(model).extract_model(["image"], [output])


def outside_layers(model: onnx.ModelProto) -> list[str]:
    """The nodes before the first layer of each output and after the last: a few operations, kept in float32 whatever
    the rest is."""
    found = []
    for output in model.graph.output:
        nodes = only(model, output.name).graph.node
        layers = [i for i, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")]
        found += [node.name for i, node in enumerate(nodes) if not layers[0] <= i <= layers[-1]]
    return found
