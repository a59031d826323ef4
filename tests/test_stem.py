"""A first layer over blocks of pixels gives what it gave over pixels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stages.convert.precision import to_int8
from stages.convert.stem import on_pixel_blocks
from tests.support.networks import SMALL, exported, run


def layer(
    side: int, kernel: int, stride: int, pads: list[int], channels: int = 3, dilation: int = 1
) -> onnx.ModelProto:
    """One convolution in 8 bits."""
    rng = np.random.default_rng(kernel * 100 + stride)
    constants = {
        "w": rng.integers(-64, 65, (4, channels, kernel, kernel)).astype(np.int8),
        "w_scale": np.linspace(0.01, 0.02, 4, dtype=np.float32),
        "w_zero": np.zeros(4, np.int8),
        "scale": np.float32(0.1),
        "zero": np.uint8(7),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["dw"], axis=0),
        helper.make_node(
            "Conv", ["dq", "dw"], ["sums"], strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2,
            dilations=[dilation] * 2,
        ),
        helper.make_node("QuantizeLinear", ["sums", "scale", "zero"], ["y"]),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_any_kernel_stride_and_padding_gives_the_same_sums(kernel: int, stride: int) -> None:
    image = np.random.default_rng(1).uniform(0, 25, (2, 3, 24, 24)).astype(np.float32)
    for before, after in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 3), (3, 0)):
        model = layer(24, kernel, stride, [before, before, after, after])
        blocked = on_pixel_blocks(model)
        onnx.checker.check_model(blocked, full_check=True)
        assert blocked.graph.node[0].op_type == "SpaceToDepth"
        assert np.array_equal(run(blocked, image), run(model, image)), (before, after)


@pytest.mark.parametrize(
    "model",
    [
        layer(24, 3, 1, [1, 1, 1, 1]),
        layer(25, 3, 2, [1, 1, 1, 1]),
        layer(24, 3, 2, [1, 0, 1, 1]),
        layer(24, 3, 2, [1, 1, 1, 1], channels=4),
        layer(24, 3, 2, [1, 1, 1, 1], dilation=2),
    ],
    ids=["stride 1", "odd image", "uneven padding", "not RGB", "dilated"],
)
def test_another_first_layer_is_left_as_it_is(model: onnx.ModelProto) -> None:
    assert on_pixel_blocks(model) == model


def test_without_a_quantised_convolution_there_is_nothing_to_do() -> None:
    model = layer(24, 3, 2, [1, 1, 1, 1])
    floats = onnx.ModelProto()
    floats.CopyFrom(model)
    conv = next(node for node in floats.graph.node if node.op_type == "Conv")
    conv.input[1] = "floats"
    floats.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "floats"))
    none = onnx.ModelProto()
    none.CopyFrom(model)
    del none.graph.node[3:]
    for one in (floats, none):
        assert on_pixel_blocks(one) == one


def test_pixels_that_several_branches_take_stay_as_they_are() -> None:
    model = layer(24, 3, 2, [1, 1, 1, 1])
    model.graph.node.append(helper.make_node("Conv", ["dq", "dw"], ["branch"], kernel_shape=[3, 3]))
    assert on_pixel_blocks(model) == model


@pytest.mark.slow
def test_a_whole_network_of_branches_can_be_made_int8() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    assert run(to_int8(exported("repvgg_a0"), [images]), images).shape == (4,)


REAL = ("resnet18", "efficientnet_lite0", "tf_efficientnet_lite0", "convnext_femto")


@pytest.mark.parametrize("name", [SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in REAL)])
def test_a_whole_network_answers_the_same_to_the_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exported(name)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    blocked = to_int8(model, [images])
    monkeypatch.setattr("stages.convert.precision.on_pixel_blocks", lambda model: model)
    plain = to_int8(model, [images])
    kinds = [[node.op_type for node in one.graph.node].count("SpaceToDepth") for one in (blocked, plain)]
    assert kinds == [1, 0]
    assert np.array_equal(run(blocked, images), run(plain, images))
    assert len(set(run(plain, images))) > 1  # it does look at the photos
