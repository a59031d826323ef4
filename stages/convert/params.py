"""What the convert stage reads of params.yaml."""

from typing import Literal

from stages.common.base.params import Data, Positive, Share, strict


@strict
class ConvertParams:
    """The section `convert`."""

    target: Literal["cpu", "gpu"]
    precision: Literal["auto", "fp32", "fp16", "int8"]
    calibration_photos: Positive
    car_check: bool
    max_auc_loss: Share


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
    convert: ConvertParams
