"""What network.onnx and best.onnx say of themselves, in the metadata of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.inference.model.onnx_check import ModelError
from serving.inference.photo.decode import RESIZE_RULE
from serving.inference.verdict.rule import CLASSES

PREFIX = "dirtycar."  # of every metadata key
SAMPLE_PHOTOS = "8e852cbea2270e0b6d91934a5fdeef87a31b9a338180d43fe834aa8e15c9ec9d"  # data_version of the drawn photos
DISTANCE = "distance"  # the second output of files that tell whether a photo shows a car
MAP = "map"  # the last output of files that tell where the logit comes from, [N, h, w]
THRESHOLD, GOLDEN = PREFIX + "threshold", PREFIX + "golden"  # in best.onnx: the text of threshold.json; golden answers
CARD = PREFIX + "card"  # the model card in Markdown; files of earlier versions have none


@dataclass(frozen=True)
class Metadata:
    """What network.onnx and best.onnx say of themselves, as strings in their metadata under `dirtycar.`."""

    model: str
    precision: str
    target: str  # cpu or gpu: where its scores were certified, and where it is served
    image_size: str
    resize: str
    classes: str
    data_version: str
    checkpoint_sha256: str

    @classmethod
    def read(cls, properties: Mapping[str, str], path: Path) -> Metadata:
        """Raises ModelError when a key is missing, or the model expects pixels made in another way."""
        names = list(cls.__dataclass_fields__)
        missing = [name for name in names if PREFIX + name not in properties]
        if missing:
            raise ModelError(f"{path} was not exported by this project: its metadata lacks {', '.join(missing)}")
        found = cls(**{name: properties[PREFIX + name] for name in names})
        if found.resize != RESIZE_RULE:
            raise ModelError(f"{path} expects photos resized by {found.resize!r}, this version does {RESIZE_RULE!r}")
        if found.classes != ",".join(CLASSES):
            raise ModelError(f"{path} knows the classes {found.classes!r}, expected {','.join(CLASSES)!r}")
        if found.target not in ("cpu", "gpu"):
            raise ModelError(f"{path} is meant for {found.target!r}, expected cpu or gpu")
        return found

    @property
    def trained_on_drawings(self) -> bool:
        """Whether the model learnt from the sample photos, which are drawn: what it says of real ones means nothing."""
        return self.data_version == SAMPLE_PHOTOS

    def properties(self) -> dict[str, str]:
        """The metadata as ONNX properties."""
        return {PREFIX + name: str(getattr(self, name)) for name in self.__dataclass_fields__}
