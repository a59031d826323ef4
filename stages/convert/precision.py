"""The same graph in fewer bits."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from serving.inference.verdict.errors import UserError
from stages.convert.graph import outside_layers

Images = NDArray[np.uint8]


class ConversionError(UserError):
    """ONNX Runtime's tools cannot make this precision of this network; the message is theirs."""


@contextmanager
def naming(precision: str) -> Iterator[None]:
    """Turn what those tools raise, which shares no base class, into ConversionError."""
    try:
        yield
    except Exception as error:
        raise ConversionError(f"{precision} cannot be made of this network: {error}") from error


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Hands ONNX Runtime's calibrator one image batch `[N, S, S, 3]` after another."""

    def __init__(self, images: Sequence[Images]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self.images, None)
        return None if batch is None else {"image": batch}


def to_int8(model: onnx.ModelProto, photos: Sequence[Images]) -> onnx.ModelProto:
    """Static 8-bit quantisation, calibrated on batches of photos. Raises ConversionError.

    Weights per channel and in 7 bits: without VNNI instructions an x86 core adds two products of 8 bits in 16, which
    can overflow and then gives other verdicts than a core that has them; with 7 bits it cannot. Depthwise kernels add
    in 32 bits everywhere, so depthwise weights keep 8 bits: they are few, and most of what int8 loses is lost there.
    """
    with tempfile.TemporaryDirectory() as folder, naming("int8"):
        source, prepared, target = (Path(folder, name) for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared)
        whole = {name: [{"axis": 0, "reduce_range": False}] for name in depthwise_weights(graph.graph)}
        quantize_static(
            prepared, target, Batches(photos), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=outside_layers(graph), extra_options={"TensorQuantOverrides": whole},
        )  # fmt: skip
        return onnx.load(target)


def depthwise_weights(graph: onnx.GraphProto) -> list[str]:
    """The weights of the convolutions in which each output channel sees one input channel and the other way round."""
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in shapes:
            out, channels, *_ = shapes[node.input[1]]
            groups = next((item.i for item in node.attribute if item.name == "group"), 1)
            if channels == 1 and out == groups > 1:
                found.append(node.input[1])
    return found


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Half precision, for GPUs; input, output and the last operations stay as they are. Raises ConversionError."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    blocked = outside_layers(model)
    with naming("fp16"):
        half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, node_block_list=blocked)
        # What comes out has its casts last, one for each node that needs it, and the types of before.
        nodes = list({node.output[0]: node for node in half.graph.node}.values())
        del half.graph.node[:], half.graph.value_info[:]
        half.graph.node.extend(nodes)
        OnnxModel.graph_topological_sort(half.graph)
        onnx.checker.check_model(half, full_check=True)
    return half
