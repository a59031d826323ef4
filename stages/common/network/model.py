"""The network: a timm model with two outputs (dirty, clean), and the checkpoint that carries it."""

from __future__ import annotations

import difflib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError
from stages.common.base.photos import CLEAN_LABEL


def create(name: str) -> nn.Module:
    """A timm model with random weights and one output per class. Raises StageError for an unknown name."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see `timm.list_models()`"
        raise StageError(f"params.yaml: model: timm has no model {name!r}; {hint}")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=len(CLASSES))
    return model


def classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of the classifier's weights begin with; some networks have several classifiers."""
    config: Any = model.pretrained_cfg
    names = config["classifier"]
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def check_image_size(model: nn.Module, name: str, size: int) -> None:
    """Raises StageError when the model cannot take `size` x `size` images or gives something else than two outputs."""
    model.eval()
    try:
        with torch.inference_mode():
            outputs = model(torch.zeros(1, 3, size, size))
    except Exception as error:  # each architecture refuses in its own way
        raise StageError(f"params.yaml: img_size: {name} cannot take {size} x {size} images: {error}") from error
    if outputs.shape != (1, len(CLASSES)):
        raise StageError(f"params.yaml: model: {name} gives outputs {tuple(outputs.shape)}, no classifier")


@dataclass(frozen=True)
class Checkpoint:
    """best.pt: weights, and what is needed to use them. Depends on nothing but what was trained."""

    model: str
    img_size: int
    mean: tuple[float, ...]  # of RGB in [0, 1], as the pretrained weights expect
    std: tuple[float, ...]
    data_version: str
    epoch: int
    weights: dict[str, Tensor]

    def content(self) -> bytes:
        """The file; the same checkpoint gives the same bytes (a path given to torch.save would be part of them)."""
        buffer = io.BytesIO()
        torch.save({name: getattr(self, name) for name in self.__dataclass_fields__}, buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read it on the CPU, weights only. Raises StageError for a missing, damaged or foreign file."""
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**content)
        except Exception as error:  # torch.load raises anything from EOFError to UnpicklingError
            raise StageError(f"{path} is not a usable checkpoint: {error}; `dvc repro train` makes it") from error

    def network(self) -> nn.Module:
        """The trained model in evaluation mode, taking normalised float images `[N, 3, S, S]`."""
        model = create(self.model)
        model.load_state_dict(self.weights)
        return model.eval()


class Normalise(nn.Module):
    """uint8 RGB `[N, S, S, 3]`, as the decoder gives them -> what the backbone expects, float `[N, 3, S, S]`.

    (x - mean) / std as a batch norm with fixed statistics: one pass over the pixels, in torch and in ONNX Runtime. Its
    epsilon of 1e-5 is nothing beside a variance of thousands.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean))
        self.register_buffer("variance", (255 * torch.tensor(std)).square())

    def forward(self, images: Tensor) -> Tensor:
        return F.batch_norm(images.permute(0, 3, 1, 2).float(), self.mean, self.variance)


def clean_logit(outputs: Tensor) -> Tensor:
    """The logit of clean against dirty, `[N]`, from a model's outputs `[N, 2]`."""
    sign = outputs.new_tensor([1.0 if label == CLEAN_LABEL else -1.0 for label in range(len(CLASSES))])
    return (outputs * sign).sum(1)
