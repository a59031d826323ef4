"""What an ONNX file may hold: standard operators, and all of its data. Looked at before ONNX Runtime opens it.

ONNX Runtime reads data that a model keeps outside of its file from whatever path the model names below its folder, or
below the current one; and its own operators beyond the standard can name files too. A model of ours needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from serving.inference.verdict.errors import UserError, read_at_most

MAX_BYTES = 2**31 - 1  # protobuf's own limit on a message: a model beyond it needs external data

_PACKAGE = "dirtycar"
_STANDARD = (b"", b"ai.onnx")
# The parts of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto that can hold an operator or a tensor, with its
# field numbers. Text is bytes here and data_location a number, so that nothing but a damaged file fails to parse.
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph"), "metadata_props": (14, "Property"), "functions": (25, "Function")},
    "Property": {"key": (1, "bytes"), "value": (2, "bytes")},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse_initializer": (15, "SparseTensor")},
    "Node": {"op_type": (4, "bytes"), "attribute": (5, "Attribute"), "domain": (7, "bytes")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor"),
        "graphs": (11, "Graph"),
        "sparse_tensor": (22, "SparseTensor"),
        "sparse_tensors": (23, "SparseTensor"),
    },
    "Tensor": {"name": (8, "bytes"), "external_data": (13, "bytes"), "data_location": (14, "int32")},
    "SparseTensor": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Function": {"name": (1, "bytes")},
}
_ONE = ("op_type", "domain", "name", "data_location", "key", "value")  # every other field may come several times


class ModelError(UserError):
    """The model file cannot be served; the message names the file and what is wrong with it."""


class ModelFile(NamedTuple):
    """A model's bytes, and what it says of itself: its metadata properties."""

    content: bytes
    properties: dict[str, str]


def read_model(path: Path) -> ModelFile:
    """Read a model that keeps to the standard's operators and brings all its data.

    Raises ModelError for a missing, unreadable, oversized or damaged file, and for one that does not.
    """
    if not path.is_file():
        raise ModelError(f"there is no model at {path}; run `dvc repro` or set the path")
    content = read_at_most(path, MAX_BYTES, ModelError)
    try:
        model = _MODEL.FromString(content)
    except DecodeError as error:
        raise ModelError(f"{path} is not a usable ONNX model: {error}") from error
    if model.functions:
        raise ModelError(f"{path} brings an operator of its own, {_text(model.functions[0].name)}; it is not loaded")
    for part in _parts(model):
        kind = part.DESCRIPTOR.name
        if kind == "Node" and part.domain not in _STANDARD:
            operator = f"{_text(part.domain)}.{_text(part.op_type)}"
            raise ModelError(f"{path} uses {operator}, which is no standard ONNX operator; it is not loaded")
        if kind == "Tensor" and (part.external_data or part.data_location):
            raise ModelError(f"{path} keeps the data of {_text(part.name)} in another file; it is not loaded")
    properties = {
        entry.key.decode(errors="replace"): entry.value.decode(errors="replace") for entry in model.metadata_props
    }
    return ModelFile(content, properties)


def _parts(message: Any) -> Iterator[Any]:
    """A message and all messages in it, sub-graphs too."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _parts(part)


def _text(name: bytes) -> str:
    return repr(name.decode(errors="replace")[:100])


def _message_class() -> Any:
    """The class that parses a model; in a pool of its own, apart from the package `onnx`."""
    file = FileDescriptorProto(name="model.proto", package=_PACKAGE)
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = FieldDescriptorProto.LABEL_OPTIONAL if field in _ONE else FieldDescriptorProto.LABEL_REPEATED
            added = message.field.add(name=field, number=number, label=label)
            if kind in _FIELDS:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))


_MODEL = _message_class()
