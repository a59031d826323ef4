"""The same graph in fewer bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from stages.export.graph import outside_layers
from stages.export.stem import on_pixel_blocks

Images = NDArray[np.uint8]


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Hands ONNX Runtime's calibrator one image batch `[N, S, S, 3]` after another."""

    def __init__(self, images: Iterator[Images]) -> None:
        self.images = images

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self.images, None)
        return None if batch is None else {"image": batch}


def to_int8(model: onnx.ModelProto, photos: Iterator[Images]) -> onnx.ModelProto:
    """Static 8-bit quantisation, calibrated on photos.

    Weights per channel and in 7 bits: without VNNI instructions an x86 core adds two products of 8 bits in 16, which
    can overflow and then gives other verdicts than a core that has them; with 7 bits it cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder, name) for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        excluded = outside_layers(onnx.load(prepared))
        quantize_static(
            prepared, target, Batches(photos), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=excluded,
        )  # fmt: skip
        return on_pixel_blocks(onnx.load(target))


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Half precision, for GPUs; input, output and the last operations stay as they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    blocked = outside_layers(model)
    half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, node_block_list=blocked)
    return half
