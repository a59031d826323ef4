"""What the backbone stage reads of params.yaml."""

from typing import Literal

from stages.common.base.params import ModelName, NonNegative, strict


@strict
class BackboneParams:
    source: Literal["auto", "package", "hub", "file", "random"]
    file: str | None
    seed: NonNegative


@strict
class Params:
    model: ModelName
    backbone: BackboneParams
