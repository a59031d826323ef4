"""What the export stage reads of params.yaml."""

from __future__ import annotations

from typing import Literal

from stages.common.params import Data, Positive, Share, strict


@strict
class ExportParams:
    """The section `export`."""

    target: Literal["cpu", "gpu"]
    precision: Literal["auto", "fp32", "fp16", "int8"]
    calibration_photos: Positive
    max_flip_share: Share
    max_precision_loss: Share
    batch_size: Positive


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
    export: ExportParams
