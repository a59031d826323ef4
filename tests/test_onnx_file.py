"""A model that reaches outside of its file, or of the ONNX standard, is not opened."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.inference.model import onnx_check
from serving.inference.model.onnx_check import ModelError, read_model
from serving.inference.model.predictor import Predictor
from serving.inference.verdict.rule import ThresholdError, read_threshold
from tests.support.onnx_models import Pair, write_pair


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A good pair; ONNX Runtime may not be asked."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime opened the model")

    monkeypatch.setattr(onnxruntime, "InferenceSession", never)
    return write_pair(tmp_path / "pair")


def outside(location: str = "weights.bin") -> TensorProto:
    """A tensor whose data lies in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_an_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(outside())


def in_an_initializer_with_an_address(model: onnx.ModelProto) -> None:
    tensor = outside("*/_ORT_MEM_ADDR_/*")  # ONNX Runtime's own mark for data at an address
    tensor.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(tensor)


def in_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["constant"], value=outside()))


def in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["far"], ["y"])], "branch", [], [], [outside()])
    model.graph.node.append(helper.make_node("If", ["one"], ["y"], then_branch=branch, else_branch=branch))


def in_a_sparse_tensor(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(outside(), indices, [4]))


@pytest.mark.parametrize(
    "change", [in_an_initializer, in_an_initializer_with_an_address, in_a_constant, in_a_branch, in_a_sparse_tensor]
)
def test_data_in_another_file(pair: Pair, change: Callable[[onnx.ModelProto], None]) -> None:
    refuse(pair, change, r"best\.onnx keeps the data of 'far' in another file")


def operator(domain: str, name: str) -> Callable[[onnx.ModelProto], None]:
    """Adds one operator, its domain imported as it should be."""

    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid(domain, 1))
        model.graph.node.append(helper.make_node(name, ["image"], ["y"], domain=domain))

    return change


def in_a_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Evil", [], ["y"], domain="evil")], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "one"], ["y"], body=body))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (operator("evil", "Run"), "'evil'.'Run'"),
        (operator("com.microsoft", "EPContext"), "'com.microsoft'.'EPContext'"),  # names a file to load
        (in_a_loop, "'evil'.'Evil'"),
    ],
)
def test_operators_beyond_the_standard(pair: Pair, change: Callable[[onnx.ModelProto], None], name: str) -> None:
    refuse(pair, change, rf"best\.onnx uses {name}, which is no standard ONNX operator")


def test_operators_of_its_own(pair: Pair) -> None:
    def change(model: onnx.ModelProto) -> None:
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        imports = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("", "Cast", ["x"], ["y"], nodes, imports))

    refuse(pair, change, "an operator of its own, 'Cast'")


def refuse(pair: Pair, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = onnx.load(pair.model)
    change(model)
    pair.model.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=message):
        Predictor(pair.model)


def test_a_plain_model_is_read_as_it_is(pair: Pair) -> None:
    assert read_model(pair.model).content == pair.model.read_bytes()


def test_files_too_large_to_be_meant(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_check, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match=r"best\.onnx is larger than 100 bytes"):
        read_model(pair.model)
    pair.threshold.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ThresholdError, match=r"threshold\.json is larger than 1,048,576 bytes"):
        read_threshold(pair.threshold)


def test_onnx_runtimes_own_format_is_not_read(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "best.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(pair.model, options, providers=["CPUExecutionProvider"])
    pair.model.write_bytes((tmp_path / "best.ort").read_bytes())
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        Predictor(pair.model)


def test_what_was_checked_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced while it is loaded gives the old model under the old name."""
    pair, real = write_pair(tmp_path), onnxruntime.InferenceSession

    def replaced(*arguments: object, **options: object) -> object:
        pair.model.write_bytes(b"")
        return real(*arguments, **options)

    before = pair.model.read_bytes()
    monkeypatch.setattr(onnxruntime, "InferenceSession", replaced)
    predictor = Predictor(pair.model, threads=1)
    assert predictor.sha256 == hashlib.sha256(before).hexdigest()
    assert predictor.p_clean(np.full((1, 32, 32, 3), 255, np.uint8)) == [1]
