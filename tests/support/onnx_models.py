"""Small ONNX models with the contract of a real one, so that the service is tested without training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

from serving.inference.model.golden import Golden, images
from serving.inference.model.metadata import CARD, GOLDEN, THRESHOLD, Metadata
from serving.inference.photo.decode import RESIZE_RULE

METADATA = Metadata(
    model="brightness",
    precision="fp32",
    target="cpu",
    image_size="32",
    resize=RESIZE_RULE,
    classes="dirty,clean",
    data_version="d" * 32,
    checkpoint_sha256="c" * 64,
)


class Pair(NamedTuple):
    """The paths of a model and of the threshold.json that is in it."""

    model: Path
    threshold: Path


def write_pair(
    folder: Path,
    *,
    size: int = 32,
    t_clean: float = 0.75,
    t_low: float | None = None,
    certified: bool = True,
    work: int = 0,
    max_distance: float | None = None,
    cells: int = 0,
    **metadata: str,
) -> Pair:
    """Write best.onnx and threshold.json. The model's p_clean is the photo's mean brightness, 0 black to 1 white;
    `work` adds that many useless matrix products, to make it slow; with `max_distance` it also tells a distance, which
    is 1 - brightness; with `cells` a map of so many a side, of brightness - 0.5; `metadata` replaces single keys."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / "best.onnx", folder / "threshold.json")
    threshold = {"T_clean": t_clean, "T_low": t_low, "certified": certified, "target_precision_clean": 0.95}
    if max_distance is not None:
        threshold["refusal"] = {"max_distance": max_distance}
    pair.threshold.write_text(json.dumps(threshold))
    facts = replace(METADATA, **{"image_size": str(size), **metadata})
    write_model(
        pair.model,
        brightness(size, work, distance=max_distance is not None, cells=cells),
        properties(pair.threshold.read_text(), size, facts),
    )
    return pair


def properties(threshold: str, size: int = 32, metadata: Metadata = METADATA) -> dict[str, str]:
    """Everything that best.onnx says of itself, for the model that tells the mean brightness."""
    seeds = range(16)
    golden = Golden(tuple(seeds), tuple((images(seeds, size).mean((1, 2, 3)) / 255).tolist()))
    return metadata.properties() | {THRESHOLD: threshold, GOLDEN: golden.text(), CARD: "# A card"}


def write_model(path: Path, graph: onnx.GraphProto, properties: dict[str, str]) -> None:
    """Write a model with the given metadata, by rename, as a deployment would."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, properties)
    partial = path.with_suffix(".part")
    onnx.save(model, partial)
    partial.replace(path)


def brightness(size: int, work: int = 0, *, distance: bool = False, cells: int = 0) -> onnx.GraphProto:
    """image: uint8 [N, size, size, 3] -> p_clean: float32 [N], the mean over 255; 1 - that as distance, if wanted."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])
    p_clean = helper.make_tensor_value_info("p_clean", TensorProto.FLOAT, ["N"])
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["p_clean" if not work else "fraction"]),
    ]
    if work:
        constants.append(helper.make_tensor("big", TensorProto.FLOAT, [512, 512], [1 / 512] * 512 * 512))
        # A factor that is 1 for every photo, but cannot be known ahead of time: so no product can.
        nodes.append(helper.make_node("ReduceMean", ["fraction"], ["bright"], keepdims=0))
        nodes.append(helper.make_node("Max", ["bright", "one"], ["factor"]))
        nodes.append(helper.make_node("Mul", ["big", "factor"], ["product0"]))
        nodes += [helper.make_node("MatMul", [f"product{n}", "big"], [f"product{n + 1}"]) for n in range(work)]
        nodes.append(helper.make_node("ReduceMin", [f"product{work}"], ["least"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["least", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["fraction", "nothing"], ["p_clean"]))
    outputs = [p_clean]
    if distance:
        nodes.append(helper.make_node("Sub", ["one", "p_clean"], ["distance"]))
        outputs.append(helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["N"]))
    if cells:
        constants.append(helper.make_tensor("channels", TensorProto.INT64, [1], [1]))
        constants.append(helper.make_tensor("half", TensorProto.FLOAT, [], [127.5]))
        side = [size // cells] * 2
        nodes += [
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["blocks"], kernel_shape=side, strides=side),
            helper.make_node("ReduceMean", ["blocks", "channels"], ["grey"], keepdims=0),
            helper.make_node("Sub", ["grey", "half"], ["centred"]),
            helper.make_node("Div", ["centred", "white"], ["map"]),
        ]
        outputs.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", cells, cells]))
    return helper.make_graph(nodes, "brightness", [image], outputs, constants)
