"""What the train stage reads of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.base.errors import StageError
from stages.common.base.params import (
    Data,
    ImageSize,
    ModelName,
    NonNegative,
    OpenShare,
    Positive,
    Runtime,
    Share,
    strict,
)

Strength = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


@strict
class AugmentParams:
    """Strengths of the random changes to a training photo; 0 turns one off."""

    flip: Share  # probability of a mirror image
    zoom: Strength  # scale between 1 - zoom and 1 + zoom
    aspect: Strength  # width against height, likewise
    shift: Strength  # of the image's side, each way
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees each way
    brightness: Strength  # factor between 1 - x and 1 + x; the next two likewise
    contrast: Strength
    saturation: Strength
    grey: Share  # probability of no colour at all
    dirt: Share  # probability of painted dirt on a clean photo, which is then dirty


@strict
class TrainParams:
    seed: NonNegative
    epochs: Positive
    batch_size: Positive
    accumulate: Positive
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    warmup: Annotated[float, Field(ge=0, lt=1)]
    sampler: Literal["weighted", "oversample", "none"]
    balance: Literal["class", "class_and_source"]
    dirty_share: OpenShare
    oversample_ratio: PositiveFloat
    class_weights: Literal["auto", "none"] | tuple[PositiveFloat, PositiveFloat]
    loss: Literal["ce", "focal"]
    focal_gamma: NonNegativeFloat
    label_smoothing: Strength
    ema_horizon: Strength
    amp: Literal["auto", "off", "bf16", "fp16"]
    compile: bool
    deterministic: Literal["auto"] | bool
    threads: Positive
    device: Literal["auto", "cuda", "cpu"]
    devices: Literal["auto"] | Positive
    holdout: OpenShare
    keep: Literal["last", "best"]
    augment: AugmentParams

    def local_batch_size(self, world: int) -> int:
        """Photos of a batch in each process. Raises StageError where they cannot be shared out."""
        if self.batch_size % (parts := world * self.accumulate):
            raise StageError(
                f"params.yaml: train.batch_size: {self.batch_size} cannot be shared out among {world} processes with "
                f"train.accumulate: {self.accumulate} parts each; use a multiple of {parts} or set train.devices"
            )
        return self.batch_size // world


@strict
class Params:
    data: Data
    img_size: ImageSize
    model: ModelName
    train: TrainParams
    runtime: Runtime
